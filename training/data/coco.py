"""Data sets in COCO's format: one JSON file beside the images (https://cocodataset.org/#format-data).

Masks are polygons or run-length codes. Polygons are drawn by pycocotools, so the pixels are the
same as for every other user of the file.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import InvalidData, MissingPrerequisite

CATEGORY = {"id": 1, "name": "nucleus", "supercategory": "cell"}
# Annotation tools put vertices on the outer edge of the last pixel, and round them.
EDGE_PX = 1.0


@dataclass(frozen=True)
class CocoImage:
    """One image of a COCO file.

    Attributes:
        file_name: path of the image, relative to the folder of the images.
        height, width: pixels.
        annotations: its nuclei as the file lists them, whatever their category.
    """

    file_name: str
    height: int
    width: int
    annotations: tuple[Mapping[str, Any], ...]

    def labels(self) -> NDArray[np.uint32]:
        """The label image, uint32 [H, W]; where masks overlap, the smallest gets the pixel.

        Nucleus n is annotation n of the image.

        Raises:
            InvalidData: masks that are empty, a single pixel, outside the image, hidden under
                others, or not masks; each annotation is named by its id.
            MissingPrerequisite: pycocotools is not installed.
        """
        rle = _pycocotools()
        labels = np.zeros((self.height, self.width), np.uint32)
        problems, coded = [], {}
        for number, annotation in enumerate(self.annotations, start=1):
            try:
                coded[number] = self._coded(annotation)
            except InvalidData as error:
                problems.append(f"annotation {annotation.get('id')}: {error}")
        for number in sorted(coded, key=lambda number: -int(rle.area(coded[number]))):
            labels[rle.decode(coded[number]) > 0] = number
        hidden = set(coded) - set(np.unique(labels).tolist())
        problems += [
            f"annotation {self.annotations[number - 1].get('id')}: its mask lies under those of "
            "others; expected at least one pixel of its own: remove it"
            for number in sorted(hidden)
        ]
        if problems:
            raise InvalidData("; ".join(problems))
        return labels

    def _coded(self, annotation: Mapping[str, Any]) -> Any:
        """The mask as pycocotools' run-length code."""
        rle = _pycocotools()
        if annotation.get("iscrowd"):
            raise InvalidData("it is a crowd; expected one mask per nucleus: outline each, or none")
        shape = annotation.get("segmentation")
        if isinstance(shape, list):
            polygons = [self._polygon(polygon) for polygon in shape]
            coded = rle.merge(rle.frPyObjects(polygons or [[0.0] * 6], self.height, self.width))
        elif isinstance(shape, Mapping) and shape.get("size") == [self.height, self.width]:
            plain = {"size": shape["size"], "counts": self._runs(shape.get("counts"))}
            coded = rle.frPyObjects(plain, self.height, self.width)
        else:
            raise InvalidData(
                f"its segmentation is no mask of {self.height} x {self.width} pixels; expected "
                "polygons or a run-length code of that size"
            )
        n_pixels = int(rle.area(coded))
        if n_pixels < 2:
            what = "is a single pixel" if n_pixels else "is empty"
            raise InvalidData(f"its mask {what}; expected two pixels or more: remove it")
        return coded

    def _polygon(self, polygon: Any) -> list[float]:
        try:
            points = np.array(polygon, float).reshape(-1, 2)
        except (TypeError, ValueError):
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

    def _runs(self, counts: Any) -> list[int]:
        """Lengths of the alternating runs of 0 and 1; pycocotools does not check their sum."""
        runs = _decompressed(counts) if isinstance(counts, str) else counts
        whole = isinstance(runs, list) and all(isinstance(n, int) and n >= 0 for n in runs)
        if not whole or sum(runs) != self.height * self.width:
            raise InvalidData(
                "its run-length code is broken; expected runs that add up to "
                f"{self.height} x {self.width} pixels"
            )
        return list(runs)


def coco_images(text: bytes) -> list[CocoImage] | None:
    """The images of a COCO file; None when the JSON is something else.

    Raises:
        InvalidData: not JSON; duplicate ids or file names, annotations of images that are not
            listed, images without a name or size. All of them are named.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidData(f"is no JSON ({error}); write it again") from error
    if not isinstance(found, dict) or not {"images", "annotations"} <= set(found):
        return None
    problems = list(_problems(found["images"], found["annotations"]))
    if problems:
        raise InvalidData("; ".join(problems))
    by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in found["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    return [
        CocoImage(image["file_name"], image["height"], image["width"], tuple(by_image[image["id"]]))
        for image in found["images"]
    ]


def coco_json(labels: Mapping[str, NDArray[np.integer]]) -> str:
    """A COCO file of label images; masks are run-length codes, which keep every pixel.

    Args:
        labels: by the file name of their image; integer [H, W], 0 is background, 1..N.
    """
    rle = _pycocotools()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, drawn) in enumerate(labels.items(), start=1):
        height, width = drawn.shape
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for label in range(1, int(drawn.max(initial=0)) + 1):
            coded = rle.encode(np.asfortranarray(drawn == label, np.uint8))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": CATEGORY["id"],
                    "segmentation": {"size": coded["size"], "counts": coded["counts"].decode()},
                    "area": int(rle.area(coded)),
                    "bbox": rle.toBbox(coded).tolist(),
                    "iscrowd": 0,
                }
            )
    return json.dumps({"images": images, "annotations": annotations, "categories": [CATEGORY]})


def _pycocotools() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise MissingPrerequisite(
            "masks of COCO and YOLO data sets need pycocotools, which is not installed: run "
            "`pip install 'nuclei-serving[train]'`, or `make train-env` and .venv-train/bin/nuclei"
        ) from error
    return mask


def _problems(images: Any, annotations: Any) -> Iterator[str]:
    for what, entries in (("images", images), ("annotations", annotations)):
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            yield f"its {what} are not a list of objects; write it again"
            return
    yield from _twice("image id", [image.get("id") for image in images])
    yield from _twice("file_name", [image.get("file_name") for image in images])
    yield from _twice("annotation id", [annotation.get("id") for annotation in annotations])
    for image in images:
        sides = image.get("height"), image.get("width")
        named = isinstance(image.get("file_name"), str) and isinstance(image.get("id"), int | str)
        if not named or not all(isinstance(side, int) and side > 0 for side in sides):
            yield f"image {image.get('id')}: expected an id, a file_name, a height and a width"
    known = {json.dumps(image.get("id")) for image in images}
    for annotation in annotations:
        if json.dumps(annotation.get("image_id")) not in known:
            yield (
                f"annotation {annotation.get('id')} is of image {annotation.get('image_id')}, "
                "which is not listed: list it, or remove the annotation"
            )


def _twice(what: str, values: Sequence[Any]) -> Iterator[str]:
    for value, n in Counter(json.dumps(value) for value in values).items():
        if n > 1:
            yield f"{what} {value} occurs {n} times; expected once"


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
