"""Regions of interest of ImageJ as truth."""

import io
import zipfile
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from roifile import ROI_TYPE, ImagejRoi

from nuclei.errors import InvalidData
from training.data.rois import roi_outlines

SHAPE = (60, 80)


def roi(kind: ROI_TYPE, points: Sequence[tuple[int, int]]) -> bytes:
    made = ImagejRoi.frompoints(np.array(points))
    made.roitype = kind
    return made.tobytes()


def square(x: int, y: int, side: int = 10, kind: ROI_TYPE = ROI_TYPE.POLYGON) -> bytes:
    return roi(kind, [(x, y), (x + side, y), (x + side, y + side), (x, y + side)])


def zipped(rois: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in rois.items():
            archive.writestr(f"{name}.roi", content)
    return file.getvalue()


def labels_of(data: bytes) -> NDArray[np.uint32]:
    return roi_outlines(data).labels(SHAPE)


def test_each_selection_that_encloses_an_area_is_a_nucleus() -> None:
    kinds = (ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED)
    rois = {f"{kind.name}": square(15 * n, 5, kind=kind) for n, kind in enumerate(kinds)}
    labels = labels_of(zipped(rois))
    assert np.bincount(labels.ravel())[1:].tolist() == [100, 100, 100]
    assert labels[5, 15] == 2


def test_rectangles_and_ovals_fill_their_frame() -> None:
    drawn = {}
    for name, kind in (("box", ROI_TYPE.RECT), ("cell", ROI_TYPE.OVAL)):
        made = ImagejRoi()
        made.roitype = kind
        made.left, made.top, made.right, made.bottom = (10, 20, 30, 40)
        drawn[name] = np.count_nonzero(labels_of(made.tobytes()))
    assert drawn["box"] == 400
    assert drawn["cell"] == pytest.approx(np.pi * 100, rel=0.05)


def test_parts_of_a_nucleus_are_one_and_names_of_imagej_are_none() -> None:
    ours = {"7-1": square(0, 0), "7-2": square(20, 0), "8": square(40, 0)}
    assert labels_of(zipped(ours)).max() == 2
    # Places, as ImageJ names selections without a name.
    places = {"1203-1844": square(0, 0), "1203-1851": square(20, 0), "0033-0001": square(40, 0)}
    assert labels_of(zipped(places)).max() == 3


def test_what_encloses_nothing_is_named() -> None:
    rois = {"edge": roi(ROI_TYPE.POLYLINE, [(0, 0), (9, 9), (3, 7)]), "good": square(20, 20)}
    with pytest.raises(InvalidData, match="edge: it is a polyline; expected a polygon"):
        roi_outlines(zipped(rois))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (zipped({}), "without .roi files"),
        (b"Iout", "no ROI of ImageJ"),
        (b"", "no ROI of ImageJ"),
        (zipped({"broken": square(0, 0)[:70]}), "broken: it is no ROI of ImageJ"),
    ],
)
def test_what_is_no_roi_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidData, match=reason):
        roi_outlines(data)
