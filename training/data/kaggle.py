"""The form of the 2018 Data Science Bowl on Kaggle: a folder per image, a mask per nucleus.

`<id>/images/<id>.png` with `<id>/masks/*.png`, each a binary mask of one nucleus.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import InvalidData
from training.data.names import stem_of

IMAGES_FOLDER = "images"
MASKS_FOLDER = "masks"


def is_kaggle(image: PurePosixPath) -> bool:
    """Whether the path of an image is `<id>/images/<id>.png`."""
    in_images = image.parent.name.lower() == IMAGES_FOLDER
    return in_images and image.parent.parent.name == stem_of(image)


def kaggle_images(
    names: Sequence[PurePosixPath],
) -> Iterator[tuple[PurePosixPath, tuple[PurePosixPath, ...]]]:
    """Each image in this form among images and masks, with its masks."""
    masks: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for name in names:
        if name.parent.name.lower() == MASKS_FOLDER:
            masks[name.parent.parent].append(name)
    for image in names:
        if is_kaggle(image):
            yield image, tuple(sorted(masks[image.parent.parent]))


def join_masks(masks: Sequence[tuple[PurePosixPath, NDArray[np.uint32]]]) -> NDArray[np.uint32]:
    """One label image, uint32 [H, W], of the masks [H, W] of single nuclei, numbered in order.

    Raises:
        InvalidData: a mask is empty, is no mask of one nucleus, or overlaps another; it is named.
    """
    labels = np.zeros(masks[0][1].shape, np.uint32)
    for number, (name, mask) in enumerate(masks, start=1):
        values = np.unique(mask[mask > 0])
        if len(values) != 1:
            raise InvalidData(
                f"{name} holds {len(values)} values besides 0; expected the mask of one nucleus, 0 "
                "and one other value (label images of all nuclei belong into images/ and masks/ "
                "without a folder for each)"
            )
        if (labels[mask > 0] > 0).any():
            raise InvalidData(f"{name} overlaps another mask; expected masks that do not overlap")
        labels[mask > 0] = number
    return labels
