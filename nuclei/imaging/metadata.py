"""The pixel size that an image file states: unknown rather than wrong, and never a refusal."""

import math
import re
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from typing import Any

import tifffile
from tifffile.tifffile import metaseries_description_metadata, svs_description_metadata

from nuclei.quoting import quoted
from nuclei.results.coordinates import PixelSize

# A pixel that resolves nuclei, of some 10 um, is smaller than the largest; print resolutions such
# as 72 dpi (352.8 um) are above. No microscope of cells has pixels below a nanometre.
MIN_PIXEL_SIZE_UM, MAX_PIXEL_SIZE_UM = 1e-3, 10.0
# Lengths of the sides of one pixel: line scanners differ by less.
MAX_ASPECT = 10.0
# Of ten thousand planes, each with its time and place. One takes up to 100 and 250 bytes of memory.
MAX_XML_TAGS, MAX_XML_ATTRIBUTES = 250_000, 500_000
MAX_JSON_BYTES = 2**20

MICROMETRES_PER = {
    "pm": 1e-6,
    "å": 1e-4,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "nanometre": 1e-3,
    "um": 1.0,
    "micron": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "millimetre": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "centimetre": 1e4,
    "in": 25400.0,
    "inch": 25400.0,
    "inche": 25400.0,
    "m": 1e6,
    "meter": 1e6,
    "metre": 1e6,
}
UNCALIBRATED = ("", "pixel", "pixels", "px", "none", "null")

Sides = tuple[float, float] | None
"""Lengths (y, x) of the sides of a pixel, micrometres; None where nothing is stated."""


class _Unusable(ValueError):
    """A statement that cannot be read; the message says what it is."""


def tiff_pixel_size(
    tiff: tifffile.TiffFile, page: tifffile.TiffPage
) -> tuple[PixelSize | None, tuple[str, ...]]:
    """Size of a pixel, None when unknown, and a sentence for each statement that is not believed.

    Sources, the first usable one is taken: OME-XML, Micro-Manager's JSON, MetaMorph's tags and
    XML, Aperio's header, Zeiss's LSM tag, ImageJ's metadata, the resolution tags.

    Args:
        tiff: an opened file.
        page: the plane of the file that is read.
    """
    warnings: list[str] = []
    for name, stated in _statements(tiff, page):
        try:
            sides = stated()
            if sides is None:
                continue
            size, doubts = plausible_pixel_size(sides, name)
            if size is not None:
                return size, tuple(warnings)
            warnings += doubts
        except _Unusable as error:
            warnings.append(f"{name} {error}, so no pixel size was taken from it")
        except Exception:  # whatever a reader of metadata raises for what it cannot read
            warnings.append(f"{name} cannot be read, so no pixel size was taken from it")
    # A print resolution is no statement about the specimen: it is left out without a word.
    sides = _resolution_tags(page)
    if sides is None or not is_plausible(sides):
        return None, tuple(warnings)
    return PixelSize(*sides), tuple(warnings)


def png_pixel_size(chunk: bytes | memoryview | None) -> tuple[PixelSize | None, tuple[str, ...]]:
    """As `tiff_pixel_size`, from the contents of a pHYs chunk."""
    if chunk is None or len(chunk) != 9:
        return None, ()
    x, y, unit = struct.unpack(">IIB", chunk)
    sides = (1e6 / y, 1e6 / x) if unit == 1 and min(x, y) > 0 else None
    return (PixelSize(*sides) if sides and is_plausible(sides) else None), ()


def ome_root(description: str) -> ElementTree.Element | None:
    """The OME-XML of a TIFF's description, None when it is something else.

    Raises:
        ElementTree.ParseError: it is not well-formed.
        ValueError: it is too large.
    """
    if re.match(r"\s*(<\?xml[^>]*\?>\s*)?(<!--.*?-->\s*)*<(\w+:)?OME\b", description, re.S) is None:
        return None
    _check_size(description)
    return ElementTree.fromstring(re.sub(r"^\s*<\?xml.*?\?>", "", description))


def ome_images(root: ElementTree.Element) -> list[ElementTree.Element]:
    """The `Pixels` of the images of OME-XML that have planes in this file.

    Each file of a set has the same text, up to the UUID of its root.
    """
    images = root.findall("{*}Image/{*}Pixels")
    return [pixels for pixels in images if _is_here(root, pixels)]


def is_of_this_file(root: ElementTree.Element, data: ElementTree.Element) -> bool:
    """Whether the planes of a `TiffData` are in the file whose OME-XML this is."""
    uuid, own = data.find("{*}UUID"), root.get("UUID")
    return uuid is None or own is None or uuid.text == own


def _is_here(root: ElementTree.Element, pixels: ElementTree.Element) -> bool:
    stored = pixels.findall("{*}TiffData")
    return not stored or any(is_of_this_file(root, data) for data in stored)


def _check_size(xml: str) -> None:
    if xml.count("<") > MAX_XML_TAGS or xml.count("=") > MAX_XML_ATTRIBUTES:
        raise ValueError("the XML is too large")


def _statements(
    tiff: tifffile.TiffFile, page: tifffile.TiffPage
) -> Iterator[tuple[str, Callable[[], Sides]]]:
    first = tiff.pages.first
    yield "its OME-XML", lambda: _ome(first.description)
    if page.is_micromanager:
        yield "its Micro-Manager metadata", lambda: _micro_manager(page.tags[51123])
    if page.is_stk:
        yield "its MetaMorph tag", lambda: _stk(tiff.stk_metadata or {})
    if page.description.startswith("<MetaData>"):
        yield "its MetaMorph XML", lambda: _metamorph(page.description)
    if first.is_svs:
        yield "its Aperio header", lambda: _aperio(first.description)
    if first.is_lsm:
        yield "its LSM tag", lambda: _lsm(tiff.lsm_metadata or {})
    if first.is_imagej:
        yield "its ImageJ metadata", lambda: _imagej(tiff.imagej_metadata or {}, page)


def _ome(description: str) -> Sides:
    root = ome_root(description)
    if root is None:
        return None
    sizes = {_ome_sides(pixels) for pixels in ome_images(root)}
    if len(sizes) > 1:
        raise _Unusable("describes several images in this file, with pixels of different sizes")
    return next(iter(sizes), None)


def _ome_sides(pixels: ElementTree.Element) -> Sides:
    sides = []
    for axis in ("Y", "X"):
        stated, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit")
        if stated is None:
            return None
        sides.append(_length(stated, "um" if unit is None else unit))
    return _both(*sides)


def _micro_manager(tag: tifffile.TiffTag) -> Sides:
    if tag.count > MAX_JSON_BYTES:
        raise ValueError("the JSON is too large")
    size = tag.value.get("PixelSizeUm", 0)
    # 0 is what Micro-Manager writes without a calibration.
    return _both(*[_length(size, "um")] * 2) if size not in (0, "0", "0.0", None) else None


def _stk(metadata: dict[str, Any]) -> Sides:
    unit = metadata.get("CalibrationUnits", "")
    if "XCalibration" not in metadata or metadata.get("SpatialCalibration") == 0:
        return None
    return _both(*(_length(metadata.get(f"{axis}Calibration"), unit) for axis in "YX"))


def _metamorph(description: str) -> Sides:
    _check_size(description)
    metadata = metaseries_description_metadata(description)
    plane = metadata.get("PlaneInfo", metadata)
    if "spatial-calibration-x" not in plane or plane.get("spatial-calibration-state") is False:
        return None
    unit = plane.get("spatial-calibration-units", "um")
    return _both(*(_length(plane.get(f"spatial-calibration-{axis}"), unit) for axis in "yx"))


def _aperio(description: str) -> Sides:
    size = svs_description_metadata(description).get("MPP")
    return None if size is None else _both(*[_length(size, "um")] * 2)


def _lsm(metadata: dict[str, Any]) -> Sides:
    return _both(*(_length(metadata.get(f"VoxelSize{axis}"), "m") for axis in "YX"))


def _imagej(metadata: dict[str, Any], page: tifffile.TiffPage) -> Sides:
    unit = metadata.get("unit", "")
    sides = []
    for axis, one in (("Y", metadata.get("yunit", unit)), ("X", unit)):
        ratio = _ratio(page, f"{axis}Resolution")
        sides.append(_length(1 / ratio, one) if ratio > 0 else None)
    return _both(*sides)


def _resolution_tags(page: tifffile.TiffPage) -> Sides:
    unit = {2: "inch", 3: "cm"}.get(int(page.resolutionunit))
    ratios = _ratio(page, "YResolution"), _ratio(page, "XResolution")
    if unit is None or page.is_imagej or min(ratios) <= 0:
        return None
    return MICROMETRES_PER[unit] / ratios[0], MICROMETRES_PER[unit] / ratios[1]


def _ratio(page: tifffile.TiffPage, tag: str) -> float:
    value = page.tags.valueof(tag, default=(0, 1))
    try:
        numerator, denominator = value
        return float(numerator / denominator)
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0


def _length(stated: Any, unit: Any) -> float | None:
    """Micrometres; None where the unit is that of an image without a calibration.

    Raises:
        _Unusable: not a number, or a unit of something else.
    """
    name = str(unit).replace("\\u00B5", "u").strip().casefold()
    # Both characters for the prefix and the sign of the angstrom fold to these.
    name = name.replace("\u03bc", "u").replace("\u00b5", "u")
    if name in UNCALIBRATED:
        return None
    factor = MICROMETRES_PER.get(name, MICROMETRES_PER.get(name.removesuffix("s")))
    if factor is None:
        raise _Unusable(f"gives the size of a pixel in {quoted(str(unit))}, which is no length")
    try:
        return float(stated) * factor
    except (TypeError, ValueError):
        raise _Unusable(f"gives {quoted(str(stated))} as the size of a pixel") from None


def _both(y: float | None, x: float | None) -> Sides:
    return None if y is None or x is None else (y, x)


def plausible_pixel_size(
    sides: tuple[float, float] | None, name: str
) -> tuple[PixelSize | None, tuple[str, ...]]:
    """The pixel size that is said, and why it is not believed.

    Args:
        sides: (y, x), micrometres; None where nothing is said.
        name: of what says so.
    """
    if sides is None:
        return None, ()
    if is_plausible(sides):
        return PixelSize(*sides), ()
    return None, (
        f"{name} gives pixels of {sides[0]:.6g} x {sides[1]:.6g} um (y, x), which is not "
        "plausible for an image of nuclei and was not used",
    )


def is_plausible(sides: tuple[float, float]) -> bool:
    """Whether a pixel of an image of nuclei may have these sides, micrometres."""
    smaller, larger = min(sides), max(sides)
    # NaN fails every comparison.
    return (
        smaller >= MIN_PIXEL_SIZE_UM
        and larger <= MAX_PIXEL_SIZE_UM
        and larger <= MAX_ASPECT * smaller
    ) and not any(math.isnan(side) for side in sides)
