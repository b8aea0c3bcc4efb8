"""Nuclei as outlines, whatever file they come from, and the label image they make.

Masks are polygons or run-length codes. They are drawn by pycocotools, so the pixels are the same as
for every other user of a COCO file.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import InvalidData, MissingPrerequisite

# Annotation tools put vertices on the outer edge of the last pixel, and round them.
EDGE_PX = 1.0
NO_CATEGORY = "(none)"

Polygons = Sequence[Any]


@dataclass(frozen=True)
class Outline:
    """One annotated object.

    Attributes:
        name: how errors call it, for example `annotation 5`.
        category: what it is, as its file says; `NO_CATEGORY` where that says nothing.
        mask: polygons, each a list x, y, x, y, ...; or a run-length code of COCO.
        holes: polygons that are cut out of it.
        crowd: it stands for several.
    """

    name: str
    category: str
    mask: Any
    holes: Polygons = ()
    crowd: bool = False


@dataclass(frozen=True)
class Outlines:
    """The annotated objects of one image.

    Attributes:
        objects: in the order of their file.
        fractions: coordinates are fractions of the image's width and height, not pixels.
        size: height and width of the image as the file has them, pixels; None where it does not.
    """

    objects: tuple[Outline, ...]
    fractions: bool = False
    size: tuple[int, int] | None = None

    def categories(self) -> Counter[str]:
        """How many objects there are of each category."""
        return Counter(outline.category for outline in self.objects)

    def labels(
        self, shape: tuple[int, int], categories: Collection[str] | None = None
    ) -> NDArray[np.uint32]:
        """The label image, uint32 [H, W]; where masks overlap, the smallest gets the pixel.

        Args:
            shape: height and width of the image, pixels.
            categories: those that are nuclei; None takes all.

        Nucleus n is object n of those.

        Raises:
            InvalidData: the image has another size; masks that are empty, a single pixel, outside
                the image, hidden under others, or not masks; each is named.
            MissingPrerequisite: pycocotools is not installed.
        """
        if self.size not in (None, shape):
            raise InvalidData(
                f"says that the image is {self.size}, and it is {shape} pixels; expected the same "
                "size"
            )
        chosen = [
            outline
            for outline in self.objects
            if categories is None or outline.category in categories
        ]
        canvas = _Canvas(*shape, (shape[1], shape[0]) if self.fractions else (1, 1))
        return canvas.draw(chosen)


@dataclass(frozen=True)
class _Canvas:
    """An image of `height` x `width` pixels, and the length of a polygon's units in them."""

    height: int
    width: int
    unit: tuple[int, int]

    def draw(self, outlines: Sequence[Outline]) -> NDArray[np.uint32]:
        rle = pycocotools()
        labels = np.zeros((self.height, self.width), np.uint32)
        problems, coded = [], {}
        for number, outline in enumerate(outlines, start=1):
            try:
                coded[number] = self._coded(outline)
            except InvalidData as error:
                problems.append(f"{outline.name}: {error}")
        for number in sorted(coded, key=lambda number: -int(rle.area(coded[number]))):
            labels[rle.decode(coded[number]) > 0] = number
        hidden = set(coded) - set(np.unique(labels).tolist())
        problems += [
            f"{outlines[number - 1].name}: its mask lies under those of others; expected at least "
            "one pixel of its own: remove it"
            for number in sorted(hidden)
        ]
        if problems:
            raise InvalidData("; ".join(problems))
        return labels

    def _coded(self, outline: Outline) -> Any:
        """The mask as pycocotools' run-length code."""
        rle = pycocotools()
        if outline.crowd:
            raise InvalidData("it is a crowd; expected one mask per nucleus: outline each, or none")
        if isinstance(outline.mask, list):
            coded = self._of_polygons(outline.mask)
        else:
            coded = rle.frPyObjects(self._of_runs(outline.mask), self.height, self.width)
        if outline.holes:
            filled = rle.decode(coded) & ~rle.decode(self._of_polygons(outline.holes))
            coded = rle.encode(np.asfortranarray(filled))
        n_pixels = int(rle.area(coded))
        if n_pixels < 2:
            what = "is a single pixel" if n_pixels else "is empty"
            raise InvalidData(f"its mask {what}; expected two pixels or more: remove it")
        return coded

    def _of_polygons(self, polygons: Polygons) -> Any:
        rle = pycocotools()
        drawn = [self._polygon(polygon) for polygon in polygons] or [[0.0] * 6]
        return rle.merge(rle.frPyObjects(drawn, self.height, self.width))

    def _polygon(self, polygon: Any) -> list[float]:
        try:
            points = np.array(polygon, float).reshape(-1, 2) * self.unit
        except (TypeError, ValueError, OverflowError):
            points = np.empty((0, 2))
        if len(points) < 3:
            raise InvalidData(
                "a polygon is not a list of three points or more; expected x, y, x, y, ..."
            )
        first, last = points.min(axis=0), points.max(axis=0)
        inside = (first >= -EDGE_PX) & (last <= np.array([self.width, self.height]) + EDGE_PX)
        if not inside.all():
            raise InvalidData(
                f"a polygon reaches from x {first[0]:g} to {last[0]:g}, y {first[1]:g} to "
                f"{last[1]:g}; expected points within {self.width} x {self.height} pixels"
            )
        flat: list[float] = points.ravel().tolist()
        return flat

    def _of_runs(self, code: Any) -> Mapping[str, Any]:
        """A run-length code that is whole; pycocotools does not check the sum of its runs."""
        size = code.get("size") if isinstance(code, Mapping) else None
        sides = [whole(side) for side in size] if isinstance(size, list) else None
        if sides != [self.height, self.width]:
            raise InvalidData(
                f"its segmentation is no mask of {self.height} x {self.width} pixels; expected "
                "polygons or a run-length code of that size"
            )
        counts = code.get("counts")
        runs = _decompressed(counts) if isinstance(counts, str) else counts
        are_lengths = isinstance(runs, list) and all(isinstance(n, int) and n >= 0 for n in runs)
        if not are_lengths or sum(runs) != self.height * self.width:
            raise InvalidData(
                "its run-length code is broken; expected runs that add up to "
                f"{self.height} x {self.width} pixels"
            )
        return {"size": sides, "counts": list(runs)}


def whole(value: Any) -> int | None:
    """A whole number that may be written as 512, 512.0 or "512"; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
        return int(number) if number.is_integer() else None
    except (ValueError, OverflowError):
        return None


def pycocotools() -> Any:
    """The module `pycocotools.mask`; MissingPrerequisite where it is not installed."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise MissingPrerequisite(
            "outlines of COCO, YOLO, QuPath and labelme need pycocotools, which is not installed: "
            "run `pip install 'nuclei-serving[train]'`, or `make train-env` and "
            ".venv-train/bin/nuclei"
        ) from error
    return mask


def _decompressed(counts: str) -> list[int]:
    """Runs of COCO's compressed code: 5 bits a character; differences from the run two before."""
    runs: list[int] = []
    value, shift = 0, 0
    for character in counts:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    return runs
