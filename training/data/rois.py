"""Truth as regions of interest of ImageJ and Fiji: a zip of their ROI Manager, or one .roi file."""

import io
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from roifile import ROI_TYPE, ImagejRoi

from nuclei.errors import InvalidData
from training.data.outlines import NO_CATEGORY, Outline, Outlines

ROI_SUFFIX, ZIP_SUFFIX = ".roi", ".zip"
# How `nuclei.formats.rois` names the parts of a nucleus.
PART = re.compile(r"(?P<label>[1-9][0-9]*)-(?P<part>[1-9][0-9]*)")
# What encloses an area.
AREAS = (ROI_TYPE.POLYGON, ROI_TYPE.RECT, ROI_TYPE.OVAL, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED)
# One with a million points.
MAX_ROI_BYTES = 2**24

Path = NDArray[np.float64]


def roi_outlines(data: bytes) -> Outlines:
    """The regions of a zip or of one .roi file; the parts of a nucleus, as we write them, are one.

    Raises:
        InvalidData: it is neither, or has lines, points and others that enclose nothing, each
            named.
    """
    rois, problems = [], []
    for name, content in _members(data):
        try:
            rois.append((name, _area(content)))
        except InvalidData as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise InvalidData("; ".join(problems))
    objects = []
    for name, parts in _joined(rois).items():
        paths = [path for part in parts for path in part]
        holes = [_is_hole(path, paths) for path in paths]
        flat = [path.ravel().tolist() for path in paths]
        objects.append(
            Outline(
                f"ROI {name}",
                NO_CATEGORY,
                [path for path, hole in zip(flat, holes, strict=True) if not hole],
                [path for path, hole in zip(flat, holes, strict=True) if hole],
            )
        )
    return Outlines(tuple(objects))


def _members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The .roi files and their names."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        yield "", data
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [one for one in archive.infolist() if one.filename.lower().endswith(ROI_SUFFIX)]
        if not members:
            raise InvalidData("it is a zip without .roi files; save it with ImageJ's ROI Manager")
        for member in members:
            if member.file_size > MAX_ROI_BYTES:
                raise InvalidData(f"{member.filename} has {member.file_size} bytes; it is no ROI")
            try:
                yield member.filename[: -len(ROI_SUFFIX)], archive.read(member)
            # An unusual compression, a password, a damaged file.
            except (NotImplementedError, RuntimeError, zipfile.BadZipFile, OSError) as error:
                raise InvalidData(f"{member.filename} cannot be read ({error})") from error


def _area(content: bytes) -> Sequence[Path]:
    """The paths of a region, float64 [N, 2] of (x, y), pixels from the corner of the image."""
    try:
        roi = ImagejRoi.frombytes(content)
        paths = roi.coordinates(multi=True)
    # roifile reads with struct and numpy, and raises what they do.
    except Exception as error:
        raise InvalidData(f"it is no ROI of ImageJ ({error}); save it again") from error
    if roi.roitype not in AREAS:
        raise InvalidData(
            f"it is a {roi.roitype.name.lower()}; expected a polygon, a freehand or traced "
            "selection, a rectangle or an oval"
        )
    return [np.asarray(path, np.float64) for path in paths]


def _joined(rois: Sequence[tuple[str, Sequence[Path]]]) -> dict[str, list[Sequence[Path]]]:
    """The regions of each nucleus: `7-1` and `7-2` are parts of `7`, if they are 1 to n."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for name, _ in rois:
        if found := PART.fullmatch(name):
            numbers[found["label"]].append(int(found["part"]))
    # Names such as `1203-0844`, which ImageJ gives, are places.
    whole = {label for label, of in numbers.items() if sorted(of) == [*range(1, len(of) + 1)]}
    joined: dict[str, list[Sequence[Path]]] = defaultdict(list)
    for number, (name, paths) in enumerate(rois, start=1):
        found = PART.fullmatch(name)
        is_part = found is not None and found["label"] in whole
        # Names may occur twice.
        joined[found["label"] if found and is_part else f"{number} ({name})"].append(paths)
    return joined


def _is_hole(path: Path, paths: Sequence[Path]) -> bool:
    """Whether it lies in an odd number of the others, as a composite selection is filled."""
    x, y = path.mean(axis=0)
    around = (
        cv2.pointPolygonTest(other.astype(np.float32)[:, None], (float(x), float(y)), False) > 0
        for other in paths
        if other is not path
    )
    return sum(around) % 2 == 1
