"""Instances as COCO's JSON, with masks in its compressed run lengths."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from nuclei.formats.tables import json_bytes
from nuclei.imaging.boxes import Window, windows
from nuclei.results.segmentation import Segmentation

CATEGORY = {"id": 1, "name": "nucleus"}
IMAGE_ID = 1


def coco_json(
    segmentation: Segmentation, name: str, check: Callable[[], None] = lambda: None
) -> bytes:
    """One image and an annotation for each nucleus: mask, box (x, y, width, height), area, score.

    Args:
        segmentation: the nuclei and their labels.
        name: of the image's file.
        check: called for each nucleus; an exception that it raises ends the work.
    """
    labels, nuclei = segmentation.labels, segmentation.nuclei
    height, width = labels.shape
    scores = dict(zip(nuclei.label.tolist(), nuclei.score.tolist(), strict=True))
    annotations = []
    for label, box in enumerate(windows(labels), start=1):
        check()
        if box is None:
            continue
        rows, columns = box
        mask = labels[box] == label
        annotations.append(
            {
                "id": label,
                "image_id": IMAGE_ID,
                "category_id": CATEGORY["id"],
                "segmentation": _run_lengths(mask, box, height, width),
                "bbox": [
                    *(columns.start, rows.start),
                    *(columns.stop - columns.start, rows.stop - rows.start),
                ],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "score": round(scores[label], 4),
            }
        )
    return json_bytes(
        {
            "images": [{"id": IMAGE_ID, "file_name": name, "width": width, "height": height}],
            "categories": [CATEGORY],
            "annotations": annotations,
        }
    )


def _run_lengths(mask: NDArray[np.bool_], box: Window, height: int, width: int) -> dict[str, Any]:
    """The pixels of a part of an image as COCO's compressed run lengths, column by column."""
    rows, columns = box
    whole = np.zeros((height, mask.shape[1]), np.uint8, order="F")
    whole[rows] = mask
    inside = np.flatnonzero(np.diff(whole.ravel("F"), prepend=0, append=0))
    ends = inside + columns.start * height
    counts = np.diff(ends, prepend=0, append=height * width)
    plain: Any = [{"size": [height, width], "counts": counts.tolist()}]
    (encoded,) = coco_masks.frPyObjects(plain, height, width)
    text = encoded["counts"]
    return {"size": [height, width], "counts": text if isinstance(text, str) else text.decode()}
