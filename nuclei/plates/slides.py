"""Planes that are too large to be segmented at once: region by region, in bounded memory."""

import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import ChoiceRequired, InvalidImage
from nuclei.imaging.decoding import Decoded
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.images import Frame, frame_of_decoded
from nuclei.imaging.intensity import intensity_of
from nuclei.plates.places import Place
from nuclei.plates.sources import Source, Window
from nuclei.plates.stitching import Region, Seen, regions, stitch
from nuclei.postprocessing.measurement import measure
from nuclei.quoting import LISTED
from nuclei.results.label_codec import compress_labels, decompress_labels
from nuclei.results.quality import Quality
from nuclei.results.segmentation import Segmentation

# A plane with a longer side is segmented by region.
SLIDE_SIDE_PX = 8192
# Of a core, and around it: twice the width of the largest nuclei at 40x.
CORE_PX, HALO_PX = 3584, 256
# The intensity range is that of parts from all over the plane: so many a side, of so many pixels.
SAMPLES, SAMPLE_PX = 8, 256


@dataclass(frozen=True)
class Slide:
    """A plane that is segmented by region.

    Attributes:
        height, width: pixels.
        intensity_range: (lo, hi), the values that are black and white in all its regions.
        channels: of its pixels, 1 or 3.
        dtype: "uint8" or "uint16".
        warnings: of the whole plane.
    """

    height: int
    width: int
    intensity_range: tuple[float, float]
    channels: int
    dtype: str
    warnings: tuple[str, ...]

    def regions(self) -> list[Region]:
        return regions(self.height, self.width, CORE_PX, HALO_PX)


def is_slide(size: tuple[int, int]) -> bool:
    return max(size) > SLIDE_SIDE_PX


def slide_of(source: Source, field: int, place: Place, options: FrameOptions) -> Slide:
    """Look at a plane: its size, and the intensity range of parts from all over it.

    Raises:
        InvalidImage, ChoiceRequired, InvalidOption: it cannot be read, or not by region.
    """
    height, width = source.size(field)
    if isinstance(place.z, str):
        raise InvalidImage(
            f"it is {height} x {width} pixels, of which no slices are put together: choose one "
            "with --z"
        )
    rows, columns = _spread(height), _spread(width)
    parts = [
        [_window(source, field, place, options, (row, column)) for column in columns]
        for row in rows
    ]
    first = parts[0][0]
    pixels = np.concatenate(
        [np.concatenate([part.pixels for part in row], axis=1) for row in parts]
    )
    decoded = replace(first, pixels=pixels)
    sample = frame_of_decoded(decoded, options)
    if decoded.pixels.dtype not in (np.uint8, np.uint16):
        raise InvalidImage(
            f"its pixels are {decoded.pixels.dtype}, and it is {height} x {width}; expected 8 or "
            "16 bit for a plane that is segmented by region: convert it"
        )
    if decoded.pixels.ndim == 3 and sample.pixels.shape[2] == 1:
        raise ChoiceRequired(
            "its colours are those of fluorescence", "choose a channel: red, green or blue"
        )
    lo, hi = intensity_of(sample).range.tolist()
    found = regions(height, width, CORE_PX, HALO_PX)
    said = (
        f"it is {height} x {width} pixels, and was segmented in {len(found)} regions with one "
        "intensity range"
    )
    return Slide(
        height,
        width,
        (sample.scale.value(lo), sample.scale.value(hi)),
        sample.pixels.shape[2],
        str(sample.pixels.dtype),
        (*sample.warnings, said),
    )


def read_region(
    source: Source, field: int, place: Place, options: FrameOptions, slide: Slide, part: Window
) -> Frame:
    """A part of a slide as a frame, with the intensity range of the whole."""
    decoded = _window(source, field, place, options, part)
    pixels = decoded.pixels if decoded.pixels.ndim == 3 else decoded.pixels[:, :, None]
    size = options.pixel_size_um or decoded.pixel_size_um
    pixels = np.ascontiguousarray(pixels[:, :, : slide.channels], slide.dtype)
    return Frame(pixels, size, intensity_range=slide.intensity_range, name=place.name)


def pack(segmentation: Segmentation) -> bytes:
    """The nuclei of a region, for `unpack`."""
    file = io.BytesIO()
    labels = segmentation.labels
    np.savez(
        file,
        allow_pickle=False,
        labels=np.frombuffer(compress_labels(labels), np.uint8),
        shape=np.array(labels.shape),
        scores=segmentation.nuclei.score,
        said=np.array([segmentation.model, segmentation.version, *segmentation.warnings]),
    )
    return file.getvalue()


def unpack(data: bytes) -> tuple[Seen, tuple[str, str], list[str]]:
    """The nuclei; the model and its version; warnings."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        height, width = file["shape"].tolist()
        labels = decompress_labels(file["labels"].tobytes(), height, width)
        model, version, *warnings = file["said"].tolist()
        return Seen(labels, file["scores"]), (model, version), warnings


@contextmanager
def stitched(
    source: Source, field: int, place: Place, options: FrameOptions, slide: Slide, folder: Path
) -> Iterator[tuple[Frame, Segmentation]]:
    """A slide and its nuclei, whose arrays lie in files of the folder while this is open.

    Args:
        folder: holds what `pack` made of each region, in files with the region's name.
        source, field, place, options, slide: as in `read_region`.
    """
    shape = slide.height, slide.width
    files = folder / "labels", folder / "pixels"
    try:
        labels = _in_file(files[0], np.dtype(np.uint32), shape)
        pixels = _in_file(files[1], np.dtype(slide.dtype), (*shape, slide.channels))
        size = None
        for region in slide.regions():
            part = read_region(source, field, place, options, slide, region.core)
            pixels[region.core] = part.pixels
            size = part.pixel_size_um
        served: dict[str, tuple[str, str]] = {}
        doubts: dict[str, list[str]] = {}

        def seen(region: Region) -> Seen:
            data = (folder / region.name).read_bytes()
            found, served[region.name], doubts[region.name] = unpack(data)
            return found

        scores, cut = stitch(slide.regions(), seen, labels)
        warnings = slide.warnings
        if cut:
            warnings += (
                f"{cut} nuclei between regions are wider than {HALO_PX} pixels and may be cut",
            )
        times = Counter(doubt for of_region in doubts.values() for doubt in of_region)
        warnings += tuple(
            f"in {count} of {len(doubts)} regions: {doubt}"
            for doubt, count in times.most_common(LISTED)
        )
        versions = sorted(set(served.values()))
        if len(versions) > 1:
            warnings += (f"the model changed between regions: {versions}",)
        model, version = versions[-1]
        frame = Frame(pixels, size, intensity_range=slide.intensity_range, name=place.name)
        yield frame, _measured(frame, labels, scores, model, version, warnings)
    finally:
        for file in files:
            with suppress(OSError):
                file.unlink(missing_ok=True)


def _measured(
    frame: Frame,
    labels: NDArray[np.uint32],
    scores: NDArray[np.float32],
    model: str,
    version: str,
    warnings: tuple[str, ...],
) -> Segmentation:
    nuclei = replace(measure(labels, frame.pixels, None), score=scores)
    areas = nuclei.area_px
    quality = Quality(
        coverage=float(areas.sum()) / labels.size,
        median_area_px=float(np.median(areas)) if len(areas) else None,
    )
    return Segmentation(
        labels,
        nuclei,
        frame.pixel_size_um,
        model,
        version,
        warnings=warnings,
        intensity_range=frame.intensity_range,
        quality=quality,
    )


def _window(
    source: Source, field: int, place: Place, options: FrameOptions, part: Window
) -> Decoded:
    z = place.z if isinstance(place.z, int) else 0
    return source.window(field, place.t or 0, z, options.selection, part)


def _spread(length: int) -> list[slice]:
    """Parts that are evenly spread over a side."""
    starts = np.linspace(0, max(0, length - SAMPLE_PX), SAMPLES).astype(int).tolist()
    return [slice(start, start + SAMPLE_PX) for start in starts]


def _in_file(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Zeros that the system keeps in a file, and in memory what is in use."""
    return np.asarray(np.memmap(path, dtype, "w+", shape=shape))
