"""Instances as COCO's JSON, with masks in its compressed run lengths."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from nuclei.formats.pieces import Pieces, separated
from nuclei.formats.tables import json_bytes
from nuclei.imaging.boxes import Window, windows
from nuclei.results.segmentation import Segmentation

CATEGORY = {"id": 1, "name": "nucleus"}
IMAGE_ID = 1


def coco_json(
    segmentation: Segmentation, name: str, check: Callable[[], None] = lambda: None
) -> Pieces:
    """One image and an annotation for each nucleus: mask, box (x, y, width, height), area, score.

    Args:
        segmentation: the nuclei and their labels.
        name: of the image's file.
        check: called for each nucleus while their masks are coded, which is before this returns;
            an exception that it raises ends the work.
    """
    height, width = segmentation.labels.shape
    nuclei = segmentation.nuclei
    label, score = nuclei.label, nuclei.score
    box, area = np.asarray(nuclei.box_px, np.int32), np.asarray(nuclei.area_px, np.int64)
    masks = list(_masks(segmentation.labels, check))
    about = {
        "images": [{"id": IMAGE_ID, "file_name": name, "width": width, "height": height}],
        "categories": [CATEGORY],
    }

    def parts() -> Iterator[bytes]:
        yield b'%b,"annotations":[' % json_bytes(about).removesuffix(b"}")
        yield from separated(
            json_bytes(
                {
                    "id": int(label[row]),
                    "image_id": IMAGE_ID,
                    "category_id": CATEGORY["id"],
                    "segmentation": {"size": [height, width], "counts": mask.decode()},
                    "bbox": _bbox(*box[row].tolist()),
                    "area": int(area[row]),
                    "iscrowd": 0,
                    "score": round(float(score[row]), 4),
                }
            )
            for row, mask in enumerate(masks)
        )
        yield b"]}"

    return Pieces(parts)


def _bbox(top: int, left: int, bottom: int, right: int) -> list[int]:
    return [left, top, right - left, bottom - top]


def _masks(labels: NDArray[np.uint32], check: Callable[[], None]) -> Iterator[bytes]:
    """Run lengths of each nucleus, by ascending label."""
    height, width = labels.shape
    for label, box in enumerate(windows(labels), start=1):
        check()
        if box is not None:
            yield _run_lengths(labels[box] == label, box, height, width)


def _run_lengths(mask: NDArray[np.bool_], box: Window, height: int, width: int) -> bytes:
    """The pixels of a part of an image as COCO's compressed run lengths, column by column."""
    rows, columns = box
    steps = np.diff(mask.T.view(np.int8), prepend=0, append=0, axis=1)
    column, row = np.nonzero(steps)
    ends = (column + columns.start) * height + row + rows.start
    # A run goes on where one column ends at the bottom and the next begins at the top.
    goes_on = np.flatnonzero(ends[1:] == ends[:-1])
    ends = np.delete(ends, np.concatenate([goes_on, goes_on + 1]))
    counts = np.diff(ends, prepend=0, append=height * width)
    plain: Any = [{"size": [height, width], "counts": counts.tolist()}]
    (encoded,) = coco_masks.frPyObjects(plain, height, width)
    text = encoded["counts"]
    return text.encode() if isinstance(text, str) else text
