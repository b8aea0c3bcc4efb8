"""The pixel size of a TIFF: from OME-XML, ImageJ's metadata or its resolution tags."""

import math
import re
import xml.etree.ElementTree as ElementTree

import tifffile

from nuclei.results.coordinates import PixelSize

# A pixel that resolves nuclei is smaller; larger values are print resolutions such as 72 dpi.
MAX_TAG_PIXEL_SIZE_UM = 10.0

MICROMETRES_PER = {
    "pm": 1e-6,
    "Å": 1e-4,
    "\u212b": 1e-4,
    "nm": 1e-3,
    "um": 1.0,
    "\u00b5m": 1.0,
    "\u03bcm": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "inch": 25400.0,
    "m": 1e6,
}


def tiff_pixel_size(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> PixelSize | None:
    """Size of a pixel; None when unknown.

    Args:
        tiff: an opened file.
        page: the plane of the file that is read.
    """
    if tiff.is_ome and tiff.ome_metadata:
        return _ome_pixel_size(tiff.ome_metadata)
    resolution = [_ratio(page, "YResolution"), _ratio(page, "XResolution")]
    if tiff.is_imagej:
        unit = str((tiff.imagej_metadata or {}).get("unit", ""))
        return _pixel_size(resolution, _unit_um(unit.replace("\\u00B5", "\u00b5")))
    unit_um = {2: MICROMETRES_PER["inch"], 3: MICROMETRES_PER["cm"]}.get(int(page.resolutionunit))
    size = _pixel_size(resolution, unit_um)
    return size if size is not None and max(size) <= MAX_TAG_PIXEL_SIZE_UM else None


def _ome_pixel_size(xml: str) -> PixelSize | None:
    pixels = ElementTree.fromstring(re.sub(r"^<\?xml.*?\?>", "", xml)).find(".//{*}Pixels")
    if pixels is None:
        return None
    sizes = []
    for axis in ("Y", "X"):
        unit_um = _unit_um(pixels.get(f"PhysicalSize{axis}Unit", "\u00b5m"))
        size = float(pixels.get(f"PhysicalSize{axis}", "nan")) * (unit_um or math.nan)
        if not (math.isfinite(size) and size > 0):
            return None
        sizes.append(size)
    return PixelSize(*sizes)


def _unit_um(unit: str) -> float | None:
    return MICROMETRES_PER.get(unit.strip())


def _ratio(page: tifffile.TiffPage, tag: str) -> float:
    numerator, denominator = page.tags.valueof(tag, default=(0, 1))
    return float(numerator / denominator) if denominator else 0.0


def _pixel_size(pixels_per_unit: list[float], unit_um: float | None) -> PixelSize | None:
    if unit_um is None or min(pixels_per_unit) <= 0:
        return None
    return PixelSize(y=unit_um / pixels_per_unit[0], x=unit_um / pixels_per_unit[1])
