import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO

from nuclei.errors import InvalidData
from training.data.coco import coco_images, coco_json
from training.data.dataset import Sample

HEIGHT, WIDTH = 40, 60


def annotation(number: int, segmentation: Any, **fields: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 1, "category_id": 1, "segmentation": segmentation, **fields}


def square(x: int, y: int, side: int) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def document(*annotations: dict[str, Any]) -> dict[str, Any]:
    image = {"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}
    return {"images": [image], "annotations": list(annotations)}


def labels_of(*annotations: dict[str, Any]) -> np.ndarray:
    images = coco_images(document(*annotations))
    assert images is not None
    return images[0].outlines.labels((HEIGHT, WIDTH))


def test_the_same_pixels_come_back(samples: list[Sample]) -> None:
    text = coco_json({f"{sample.id}.png": sample.labels for sample in samples})
    images = coco_images(json.loads(text))
    assert images is not None
    for image, sample in zip(images, samples, strict=True):
        assert image.file_name == f"{sample.id}.png"
        assert np.array_equal(image.outlines.labels(sample.labels.shape), sample.labels)


def test_pycocotools_reads_what_we_write(samples: list[Sample], tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(coco_json({f"{sample.id}.png": sample.labels for sample in samples}))
    coco = COCO(path)
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == [
        f"{sample.id}.png" for sample in samples
    ]
    for sample, image in zip(samples, coco.getImgIds(), strict=True):
        found = coco.loadAnns(coco.getAnnIds(imgIds=image))
        assert len(found) == sample.labels.max()
        for label, entry in enumerate(found, start=1):
            mask = sample.labels == label
            y, x = np.nonzero(mask)
            assert np.array_equal(coco.annToMask(entry), mask)
            assert entry["area"] == mask.sum()
            assert entry["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]


@pytest.mark.parametrize("seed", range(5))
def test_every_kind_of_mask_is_drawn_as_pycocotools_draws_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.asfortranarray(rng.random((HEIGHT, WIDTH)) < 0.4, np.uint8)
    packed = rle.encode(mask)
    runs = np.diff(np.flatnonzero(np.diff(mask.ravel("F"), prepend=2, append=2)))
    counts = [0] * int(mask[0, 0]) + runs.tolist()
    polygon = (rng.random((7, 2)) * (WIDTH, HEIGHT)).ravel().tolist()
    drawn = rle.decode(rle.merge(rle.frPyObjects([polygon], HEIGHT, WIDTH)))
    size = [HEIGHT, WIDTH]
    compressed = {"size": size, "counts": packed["counts"].decode()}
    assert np.array_equal(labels_of(annotation(1, compressed)), mask)
    assert np.array_equal(labels_of(annotation(1, {"size": size, "counts": counts})), mask)
    assert np.array_equal(labels_of(annotation(1, [polygon])), drawn)


def test_several_polygons_are_one_nucleus() -> None:
    labels = labels_of(annotation(7, square(2, 2, 4) + square(20, 2, 4)))
    assert labels.max() == 1
    assert labels.sum() == 32


@pytest.mark.parametrize("inner_first", [True, False])
def test_the_smaller_of_two_that_overlap_has_the_pixels(inner_first: bool) -> None:
    pair = [annotation(1, square(10, 10, 3)), annotation(2, square(5, 5, 20))]
    labels = labels_of(*(pair if inner_first else pair[::-1]))
    assert sorted(np.bincount(labels.ravel())[1:]) == [9, 400 - 9]


def test_a_vertex_may_lie_a_rounding_outside() -> None:
    assert labels_of(annotation(1, [[-0.4, 0, 5, 0, 5, 5, -0.4, 5]])).sum() == 25


SIZE = [HEIGHT, WIDTH]
UNUSABLE: list[tuple[Any, str]] = [
    (square(58, 2, 8), "outside|reaches from x 58 to 66"),
    ([[float("nan"), 1, 5, 1, 5, 5]], "reaches from"),
    ([[1, 1, 5, 5]], "three points"),
    ([[10**400, 1, 5, 1, 5, 5]], "three points"),
    ([[1, 1, 5, 1, 5]], "three points"),
    ([["a", 1, 5, 1, 5, 5]], "three points"),
    (["a"], "three points"),
    ([], "is empty"),
    (square(5, 5, 0), "is empty"),
    (square(5, 5, 1), "single pixel"),
    ({"size": SIZE, "counts": [HEIGHT * WIDTH]}, "is empty"),
    ({"size": SIZE, "counts": [5, 1, HEIGHT * WIDTH - 6]}, "single pixel"),
    ({"size": SIZE, "counts": [5, 9]}, "add up"),
    ({"size": SIZE, "counts": [-5, 5, HEIGHT * WIDTH]}, "add up"),
    ({"size": SIZE, "counts": "5é9"}, "add up"),
    ({"size": SIZE, "counts": ""}, "add up"),
    ({"size": SIZE}, "add up"),
    ({"size": [8, 8], "counts": [0, 64]}, "no mask of 40 x 60"),
    (None, "no mask of 40 x 60"),
]


@pytest.mark.parametrize(("segmentation", "reason"), UNUSABLE)
def test_a_mask_that_cannot_be_used_is_named(segmentation: Any, reason: str) -> None:
    with pytest.raises(InvalidData, match=rf"annotation 42: .*({reason})") as caught:
        labels_of(annotation(41, square(2, 2, 4)), annotation(42, segmentation))
    assert "annotation 41" not in str(caught.value)


def test_a_crowd_is_named() -> None:
    with pytest.raises(InvalidData, match="annotation 3: it is a crowd"):
        labels_of(annotation(3, square(2, 2, 4), iscrowd=1))


def test_a_mask_that_occurs_twice_is_named() -> None:
    with pytest.raises(InvalidData, match="annotation 1: its mask lies under"):
        labels_of(annotation(1, square(2, 2, 4)), annotation(2, square(2, 2, 4)))


def spoil_annotation_id(found: dict[str, Any]) -> None:
    found["annotations"] *= 2


def spoil_image_id(found: dict[str, Any]) -> None:
    found["images"].append({**found["images"][0], "file_name": "b.png"})


def spoil_file_name(found: dict[str, Any]) -> None:
    found["images"].append({**found["images"][0], "id": 2})


def spoil_image_of_annotation(found: dict[str, Any]) -> None:
    found["annotations"][0]["image_id"] = 9


def spoil_size(found: dict[str, Any]) -> None:
    found["images"][0]["height"] = "40.5"


def spoil_image(found: dict[str, Any]) -> None:
    del found["images"][0]["file_name"]


def spoil_list(found: dict[str, Any]) -> None:
    found["annotations"] = {"a": 1}


SPOILED = [
    (spoil_annotation_id, "annotation id 5 occurs 2 times"),
    (spoil_image_id, "image id 1 occurs 2 times"),
    (spoil_file_name, 'file_name "a.png" occurs 2 times'),
    (spoil_image_of_annotation, "annotation 5 is of image 9, which is not listed"),
    (spoil_size, "image 1: expected an id, a file_name, a height and a width"),
    (spoil_image, "image 1: expected an id, a file_name, a height and a width"),
    (spoil_list, "annotations are not a list"),
]


@pytest.mark.parametrize(("spoil", "reason"), SPOILED)
def test_what_is_wrong_with_a_file_is_named(
    spoil: Callable[[dict[str, Any]], None], reason: str
) -> None:
    found = document(annotation(5, square(2, 2, 4)))
    spoil(found)
    with pytest.raises(InvalidData, match=reason):
        coco_images(found)


def test_other_json_is_no_coco_file() -> None:
    assert coco_images({"images": []}) is None
    assert coco_images([1]) is None


def test_numbers_may_be_written_in_any_way() -> None:
    found = document(annotation(5, square(2, 2, 4)))
    found["images"][0] |= {"id": "1", "height": "40", "width": 60.0}
    found["annotations"][0] |= {"image_id": 1.0, "segmentation": {"size": ["40", 60.0]}}
    found["annotations"][0]["segmentation"]["counts"] = [0, 9, HEIGHT * WIDTH - 9]
    images = coco_images(found)
    assert images is not None
    assert images[0].outlines.labels((HEIGHT, WIDTH)).sum() == 9


def test_annotations_have_the_names_of_their_categories() -> None:
    found = document(annotation(5, square(2, 2, 4)), annotation(6, square(9, 2, 4), category_id=7))
    found["categories"] = [{"id": "1", "name": "cell"}, {"name": "no id"}, 3]
    images = coco_images(found)
    assert images is not None
    assert images[0].outlines.categories() == {"cell": 1, "7": 1}
    assert images[0].outlines.labels((HEIGHT, WIDTH), ["7"]).sum() == 16
