"""Data sets in COCO's format: one JSON file beside the images (https://cocodataset.org/#format-data)."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import InvalidData
from training.data.outlines import NO_CATEGORY, Outline, Outlines, pycocotools, whole

CATEGORY = {"id": 1, "name": "nucleus", "supercategory": "cell"}


@dataclass(frozen=True)
class CocoImage:
    """One image of a COCO file.

    Attributes:
        file_name: path of the image as it is listed.
        outlines: its annotations.
    """

    file_name: str
    outlines: Outlines


def coco_images(document: Any) -> list[CocoImage] | None:
    """The images of a COCO file; None when the document is something else.

    Raises:
        InvalidData: duplicate ids or file names, annotations of images that are not listed, images
            without a name or size. All of them are named.
    """
    if not isinstance(document, dict) or not {"images", "annotations"} <= set(document):
        return None
    images, annotations = document["images"], document["annotations"]
    problems = list(_problems(images, annotations))
    if problems:
        raise InvalidData("; ".join(problems))
    names = _category_names(document.get("categories"))
    by_image: dict[str, list[Outline]] = defaultdict(list)
    for annotation in annotations:
        by_image[_id(annotation["image_id"])].append(_outline(annotation, names))
    return [
        CocoImage(
            image["file_name"],
            Outlines(tuple(by_image[_id(image["id"])]), size=_size(image)),
        )
        for image in images
    ]


def coco_json(labels: Mapping[str, NDArray[np.integer]]) -> str:
    """A COCO file of label images; masks are run-length codes, which keep every pixel.

    Args:
        labels: by the file name of their image; integer [H, W], 0 is background, 1..N.
    """
    rle = pycocotools()
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


def _outline(annotation: Mapping[str, Any], names: Mapping[str, str]) -> Outline:
    category = annotation.get("category_id")
    return Outline(
        f"annotation {annotation.get('id')}",
        NO_CATEGORY if category is None else names.get(_id(category), _id(category)),
        annotation.get("segmentation"),
        crowd=bool(annotation.get("iscrowd")),
    )


def _category_names(categories: Any) -> dict[str, str]:
    listed = categories if isinstance(categories, list) else []
    named = [entry for entry in listed if isinstance(entry, dict) and entry.get("name")]
    return {_id(entry.get("id")): str(entry["name"]) for entry in named}


def _problems(images: Any, annotations: Any) -> Iterator[str]:
    for what, entries in (("images", images), ("annotations", annotations)):
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            yield f"its {what} are not a list of objects; write it again"
            return
    yield from _twice("image id", [_id(image.get("id")) for image in images])
    yield from _twice("file_name", [json.dumps(image.get("file_name")) for image in images])
    yield from _twice("annotation id", [_id(annotation.get("id")) for annotation in annotations])
    for image in images:
        named = isinstance(image.get("file_name"), str) and image.get("id") is not None
        if not named or _size(image) is None:
            yield f"image {image.get('id')}: expected an id, a file_name, a height and a width"
    known = {_id(image.get("id")) for image in images}
    for annotation in annotations:
        if _id(annotation.get("image_id")) not in known:
            yield (
                f"annotation {annotation.get('id')} is of image {annotation.get('image_id')}, "
                "which is not listed: list it, or remove the annotation"
            )


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = whole(image.get("height")), whole(image.get("width"))
    return (height, width) if height and width and height > 0 and width > 0 else None


def _id(value: Any) -> str:
    """An id, however it is written: 7, 7.0 and "7" are one."""
    number = None if isinstance(value, str) else whole(value)
    return str(value if number is None else number)


def _twice(what: str, values: Sequence[str]) -> Iterator[str]:
    for value, n in Counter(values).items():
        if n > 1:
            yield f"{what} {value} occurs {n} times; expected once"
