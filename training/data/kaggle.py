"""The form of the 2018 Data Science Bowl on Kaggle: a folder per image, a mask per nucleus.

`<id>/images/<id>.png` with `<id>/masks/*.png`, each a binary mask of one nucleus.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import InvalidData
from training.data.files import IMAGES_FOLDER

MASKS_FOLDER = "masks"


def is_kaggle(image: PurePosixPath) -> bool:
    """Whether the path of an image is `<id>/images/<id>.png`."""
    return image.parent.name == IMAGES_FOLDER and image.parent.parent.name == image.stem


def kaggle_images(
    names: Sequence[PurePosixPath],
) -> Iterator[tuple[PurePosixPath, list[PurePosixPath]]]:
    """Each image in this form among images and masks, with its masks."""
    by_folder: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for name in names:
        by_folder[name.parent].append(name)
    for image in names:
        if is_kaggle(image):
            yield image, sorted(by_folder[image.parent.parent / MASKS_FOLDER])


def join_masks(masks: Sequence[tuple[PurePosixPath, NDArray[np.uint32]]]) -> NDArray[np.uint32]:
    """One label image, uint32 [H, W], of the masks [H, W] of single nuclei, numbered in order.

    Raises:
        InvalidData: two masks overlap; the second is named.
    """
    labels = np.zeros(masks[0][1].shape, np.uint32)
    for number, (name, mask) in enumerate(masks, start=1):
        if (labels[mask > 0] > 0).any():
            raise InvalidData(f"{name} overlaps another mask; expected masks that do not overlap")
        labels[mask > 0] = number
    return labels
