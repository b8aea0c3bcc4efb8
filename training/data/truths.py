"""Where the nuclei of an image come from: label images, masks of single nuclei, or outlines."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import InvalidData
from nuclei.imaging.plausibility import check_label_image
from training.data.files import Files, naming
from training.data.kaggle import join_masks
from training.data.outlines import Outlines

Labels = NDArray[np.uint32]
Shape = tuple[int, int]


class Truth(Protocol):
    """The nuclei of an image."""

    @property
    def files(self) -> Sequence[PurePosixPath]:
        """What is read."""
        ...

    def labels(self, files: Files, shape: Shape, categories: frozenset[str]) -> Labels:
        """Label image, uint32 [H, W], of an image of this shape.

        Raises:
            InvalidData: it cannot be used; the file is named.
        """
        ...


@dataclass(frozen=True)
class LabelImages:
    """A label image; or several, which must agree."""

    files: Sequence[PurePosixPath]

    def labels(self, files: Files, shape: Shape, categories: frozenset[str]) -> Labels:
        (name, labels), *others = [(name, files.labels(name)) for name in self.files]
        _check_shape(name, labels, shape)
        naming(name, lambda: check_label_image(labels))
        for other, found in others:
            if not np.array_equal(found, labels):
                raise InvalidData(f"{name} and {other} differ; remove one of them")
        return labels


@dataclass(frozen=True)
class SingleMasks:
    """A binary mask for each nucleus."""

    files: Sequence[PurePosixPath]

    def labels(self, files: Files, shape: Shape, categories: frozenset[str]) -> Labels:
        masks = [(name, files.labels(name)) for name in self.files]
        for name, mask in masks:
            _check_shape(name, mask, shape)
        return join_masks(masks)


@dataclass(frozen=True)
class OutlineFile:
    """Outlines in a file of their own, or in a file of many images."""

    file: PurePosixPath
    outlines: Outlines

    @property
    def files(self) -> Sequence[PurePosixPath]:
        return (self.file,)

    def labels(self, files: Files, shape: Shape, categories: frozenset[str]) -> Labels:
        return naming(self.file, lambda: self.outlines.labels(shape, categories))


@dataclass(frozen=True)
class Unreadable:
    """A file that should hold the nuclei, and does not."""

    file: PurePosixPath
    error: InvalidData

    @property
    def files(self) -> Sequence[PurePosixPath]:
        return (self.file,)

    def labels(self, files: Files, shape: Shape, categories: frozenset[str]) -> Labels:
        raise self.error


@dataclass(frozen=True)
class NoNuclei:
    """No file, where that says that the image has no nuclei."""

    files: Sequence[PurePosixPath] = ()

    def labels(self, files: Files, shape: Shape, categories: frozenset[str]) -> Labels:
        return np.zeros(shape, np.uint32)


def _check_shape(name: PurePosixPath, labels: Labels, shape: Shape) -> None:
    if labels.shape != shape:
        raise InvalidData(
            f"{name} is {labels.shape} and its image is {shape} pixels; expected the same size"
        )
