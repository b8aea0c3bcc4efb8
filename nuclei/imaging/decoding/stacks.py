"""The planes and channels of a TIFF that holds several: their names, and where they lie."""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile.tifffile import shaped_description_metadata

from nuclei.errors import ChoiceRequired, InvalidImage, InvalidOption
from nuclei.imaging.decoding.directories import MAX_PAGES, Directories
from nuclei.imaging.metadata import is_of_this_file, ome_images, ome_root
from nuclei.imaging.selection import Selection, described_channels

NAMES = {"T": "time points", "Z": "focal planes", "R": "positions", "I": "pages", "Q": "pages"}
ELSEWHERE = -1
MAX_IMAGES = 1000


@dataclass(frozen=True, eq=False)
class Stack:
    """The planes of a file.

    Attributes:
        axes: one letter for each axis of `numbers`, as in OME: "C" of the channels, the others of
            planes.
        numbers: int [...], where each plane is in the file, counted from 0; -1 for one in another
            file of its set.
        channel_names: "" for one without a name.
        are_contiguous: whether the file has one directory for planes that follow one another.
        name: of the image, in OME-XML; "" where it has none.
        well: of a plate in which the image is, as "B03"; "" where it is in none.
    """

    axes: str
    numbers: NDArray[np.int64]
    channel_names: tuple[str, ...]
    are_contiguous: bool = False
    name: str = ""
    well: str = ""

    def selected(self, selection: Selection) -> list[int]:
        """The numbers of the planes whose maximum is to be taken; mostly one.

        Raises:
            ChoiceRequired: there are several, and none is selected.
            InvalidImage: what is selected is in another file.
            InvalidOption: what is selected does not exist.
        """
        channels = self._by_channel()
        undecided = (len(channels) > 1 and selection.channel is None) or (
            channels.shape[1] > 1 and selection.plane is None and selection.project is None
        )
        if undecided:
            raise ChoiceRequired(
                f"the TIFF holds {self._described()}",
                self._choose(channels),
                self.channel_names,
                channels.shape[1],
            )
        channel = 0
        if len(channels) > 1:
            channel = selection.channel_among(self.channel_names)
        planes = channels[channel]
        if selection.plane is not None:
            if selection.plane >= len(planes):
                raise InvalidOption(
                    f"plane is {selection.plane}; the TIFF holds {self._described()}, counted from "
                    "0: choose one with `plane`"
                )
            planes = planes[selection.plane : selection.plane + 1]
        if ELSEWHERE in planes:
            raise InvalidImage(
                "the selected plane is in another file of the set that the OME-XML describes; "
                "expected one in this file: send the other one"
            )
        return [int(number) for number in planes]

    @property
    def planes(self) -> int:
        """How many each channel has."""
        return len(self._by_channel()[0])

    def _by_channel(self) -> NDArray[np.int64]:
        """int [channels, planes]."""
        if "C" not in self.axes:
            return self.numbers.reshape(1, -1)
        first = np.moveaxis(self.numbers, self.axes.index("C"), 0)
        return first.reshape(len(first), -1)

    def _described(self) -> str:
        planes = [
            f"{size} {NAMES.get(axis, 'planes')}"
            for axis, size in zip(self.axes, self.numbers.shape, strict=True)
            if axis != "C" and size > 1
        ]
        channels = [described_channels(self.channel_names)] * (len(self.channel_names) > 1)
        return " x ".join(channels + planes) or "one plane"

    def _choose(self, channels: NDArray[np.int64]) -> str:
        ways = []
        if len(channels) > 1:
            ways.append("choose one with `channel` (number or name)")
        if channels.shape[1] > 1:
            ways.append(
                f"choose one with `plane` (0 to {channels.shape[1] - 1}), or their maximum with "
                "`project` (max)"
            )
        return ", and ".join(ways)


def stack_of(tiff: tifffile.TiffFile, found: Directories) -> tuple[Stack, tuple[str, ...]]:
    """The planes of a file, and a sentence where its own description of them does not fit."""
    pages = np.array([page.index for page in found.pages], np.int64)
    first = tiff.pages.first
    if first.is_svs:  # the others are previews
        return Stack("I", pages[:1], ("",)), ()
    described = False
    for describe in (_ome, _imagej, _metamorph, _shaped):
        try:
            stack = describe(tiff, pages)
        except Exception:  # whatever a reader of metadata raises for what it cannot read
            described = True
            continue
        if stack is not None:
            return stack, ()
    warnings: tuple[str, ...] = ()
    if described:
        warnings = (
            "its metadata do not fit the planes that it holds, which are counted as stored",
        )
    return Stack("I", pages, ("",)), warnings


def stacks_of(tiff: tifffile.TiffFile, found: Directories) -> tuple[list[Stack], tuple[str, ...]]:
    """Each image of which OME-XML has planes in this file, else the one of `stack_of`."""
    pages = np.array([page.index for page in found.pages], np.int64)
    try:
        several = _ome_stacks(tiff, pages) or []
    except Exception:  # `stack_of` says so
        several = []
    if len(several) > 1:
        return several, ()
    stack, warnings = stack_of(tiff, found)
    return [stack], warnings


def ome_channel_names(tiff: tifffile.TiffFile) -> tuple[str, ...]:
    """Names of the channels of the image that OME-XML has in this file; none for several."""
    try:
        root = ome_root(tiff.pages.first.description)
    except (ElementTree.ParseError, ValueError):
        return ()
    images = [] if root is None else ome_images(root)
    channels = images[0].findall("{*}Channel") if len(images) == 1 else []
    return tuple(channel.get("Name", "") for channel in channels)


def _ome(tiff: tifffile.TiffFile, pages: NDArray[np.int64]) -> Stack | None:
    if len(pages) == 1:
        return None
    here = _ome_stacks(tiff, pages)
    if here is None:
        return None
    if len(here) != 1 or len(np.setdiff1d(pages, here[0].numbers)):
        raise ValueError("it describes other planes")
    return here[0]


def _ome_stacks(tiff: tifffile.TiffFile, pages: NDArray[np.int64]) -> list[Stack] | None:
    """The images with planes in this file; None without OME-XML."""
    root = ome_root(tiff.pages.first.description)
    if root is None:
        return None
    images = ome_images(root)
    if (
        len(images) > MAX_IMAGES
        or len(root.findall("{*}Image/{*}Pixels/{*}TiffData")) > 4 * MAX_PAGES
    ):
        raise ValueError("it describes too much")
    wells = _ome_wells(root)
    stacks = []
    for image in root.iterfind("{*}Image"):
        pixels = image.find("{*}Pixels")
        stack = _ome_image(root, pixels, pages) if pixels in images else None
        if stack is not None:
            well = wells.get(image.get("ID", ""), "")
            stacks.append(replace(stack, name=image.get("Name", ""), well=well))
    return stacks


def _ome_wells(root: ElementTree.Element) -> dict[str, str]:
    """The well of each image of a plate, by the image's id."""
    return {
        reference.get("ID", ""): well_name(int(well.get("Row", 0)), int(well.get("Column", 0)))
        for well in root.iterfind("{*}Plate/{*}Well")
        for reference in well.iterfind("{*}WellSample/{*}ImageRef")
    }


def well_name(row: int, column: int) -> str:
    """As on a plate: (1, 2) is "B03", row 26 is AA."""
    letters = chr(ord("A") + row % 26)
    return f"{'' if row < 26 else chr(ord('A') + row // 26 - 1)}{letters}{column + 1:02d}"


def _ome_image(
    root: ElementTree.Element, pixels: ElementTree.Element, pages: NDArray[np.int64]
) -> Stack | None:
    """The planes of one image that are in this file; None if there are none."""
    axes = pixels.get("DimensionOrder", "XYCZT")[:1:-1]
    channels = pixels.findall("{*}Channel")
    samples = int(channels[0].get("SamplesPerPixel", 1)) if channels else 1
    sizes = {axis: int(pixels.get(f"Size{axis}", 1)) for axis in "CZT"}
    sizes["C"] //= samples
    shape = [sizes[axis] for axis in axes]
    if not 0 < math.prod(shape) <= MAX_PAGES:
        raise ValueError("it describes too many planes")
    numbers = np.full(math.prod(shape), ELSEWHERE, np.int64)
    for data in pixels.iterfind("{*}TiffData"):
        if not is_of_this_file(root, data):
            continue
        start = int(
            np.ravel_multi_index([int(data.get(f"First{axis}", 0)) for axis in axes], shape)
        )
        page = int(data.get("IFD", 0))
        count = int(data.get("PlaneCount", 1 if "IFD" in data.attrib else len(pages)))
        count = min(count, len(numbers) - start)
        numbers[start : start + count] = np.arange(page, page + count)
    numbers[~np.isin(numbers, pages)] = ELSEWHERE
    if (numbers == ELSEWHERE).all():
        return None
    names = [channel.get("Name", "") for channel in channels][: sizes["C"]]
    names += [""] * (sizes["C"] - len(names))
    return Stack(axes, numbers.reshape(shape), tuple(names))


def _imagej(tiff: tifffile.TiffFile, pages: NDArray[np.int64]) -> Stack | None:
    metadata = tiff.imagej_metadata
    if metadata is None:
        return None
    # Bio-Formats counts the colours of a pixel as channels.
    channels = 1 if tiff.pages.first.samplesperpixel > 1 else int(metadata.get("channels", 1))
    sizes = {"C": channels, "Z": metadata.get("slices", 1), "T": metadata.get("frames", 1)}
    order = str(metadata.get("order", "czt")).upper()
    axes = (order if sorted(order) == sorted("CZT") else "CZT")[::-1]
    shape = [int(sizes[axis]) for axis in axes]
    if math.prod(shape) == 1:
        axes, shape = "I", [max(len(pages), int(metadata.get("images", 1)) // channels)]
    numbers, are_contiguous = _stored(tiff, pages, shape)
    names = tuple(_imagej_names(metadata, axes, shape)) if channels > 1 else ("",)
    return Stack(axes, numbers, names, are_contiguous)


def _imagej_names(metadata: dict[str, Any], axes: str, shape: list[int]) -> Iterator[str]:
    """Labels of the first plane of each channel."""
    labels = metadata.get("Labels")
    by_channel = np.moveaxis(np.arange(math.prod(shape)).reshape(shape), axes.index("C"), 0)
    for plane in by_channel.reshape(len(by_channel), -1)[:, 0]:
        label = labels[plane] if isinstance(labels, list) and len(labels) > plane else ""
        # ImageJ puts "c:1/3 z:2/5 - " before a name.
        yield re.sub(r"^([czt]:\d+/\d+\s*)+-?\s*", "", label).strip()


def _metamorph(tiff: tifffile.TiffFile, pages: NDArray[np.int64]) -> Stack | None:
    planes = tiff.pages.first.tags.get(33629)
    if planes is None or len(pages) > 1:
        return None
    numbers, are_contiguous = _stored(tiff, pages, [planes.count])
    return Stack("I", numbers, ("",), are_contiguous)


def _shaped(tiff: tifffile.TiffFile, pages: NDArray[np.int64]) -> Stack | None:
    """As tifffile describes what it writes."""
    page = tiff.pages.first
    if page.shaped_description is None:
        return None
    metadata = shaped_description_metadata(page.shaped_description)
    leading = len(metadata["shape"]) - page.ndim
    shape = [int(size) for size in metadata["shape"][:leading]]
    axes = metadata.get("axes", "I" * len(metadata["shape"]))[:leading]
    if leading < 1:
        return None
    if len(axes) != leading or axes.count("C") > 1:
        raise ValueError("it names its axes in another way")
    numbers, are_contiguous = _stored(tiff, pages, shape)
    n_channels = shape[axes.index("C")] if "C" in axes else 1
    return Stack(axes, numbers, ("",) * n_channels, are_contiguous)


def _stored(
    tiff: tifffile.TiffFile, pages: NDArray[np.int64], shape: list[int]
) -> tuple[NDArray[np.int64], bool]:
    """The numbers of planes, and whether they follow one another behind one directory."""
    n_planes = math.prod(shape)
    if n_planes == len(pages):
        return pages.reshape(shape), False
    page = tiff.pages.first
    if not (
        len(pages) == 1
        and 1 < n_planes <= MAX_PAGES
        and page.is_contiguous
        and page.dataoffsets[0] + n_planes * page.nbytes <= tiff.filehandle.size
    ):
        raise ValueError("it holds another number of planes")
    return np.arange(n_planes).reshape(shape), True
