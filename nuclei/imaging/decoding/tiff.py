"""TIFF: one decoder, tifffile with imagecodecs, for every compression and layout."""

import io
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from nuclei.errors import ChoiceRequired, InvalidImage
from nuclei.imaging.decoding import jpeg
from nuclei.imaging.decoding.decoded import (
    CheckShape,
    Decoded,
    File,
    Header,
    orientation_warning,
    with_samples,
)
from nuclei.imaging.decoding.directories import (
    MAX_SEGMENTS,
    Directories,
    Directory,
    directories,
)
from nuclei.imaging.decoding.stacks import Stack, ome_channel_names, stack_of, stacks_of
from nuclei.imaging.metadata import tiff_pixel_size
from nuclei.imaging.selection import Choices, Selection, chosen_channel, described_channels
from nuclei.results.coordinates import PixelSize

_COMPRESSION, _PHOTOMETRIC = tifffile.COMPRESSION, tifffile.PHOTOMETRIC
_JPEG, _CCITT = _COMPRESSION.JPEG, (2, 3, 4)
_JPEG_2000 = (_COMPRESSION.APERIO_JP2000_RGB, _COMPRESSION.JPEG2000)
_DEFLATE = (_COMPRESSION.ADOBE_DEFLATE, _COMPRESSION.DEFLATE)
_READ = (
    *(_COMPRESSION.NONE, _COMPRESSION.LZW, *_DEFLATE, _COMPRESSION.PACKBITS, _COMPRESSION.ZSTD),
    *(_JPEG, *_JPEG_2000, *_CCITT),
)
_GREY = (_PHOTOMETRIC.MINISBLACK, _PHOTOMETRIC.MINISWHITE)
_COLOUR = (_PHOTOMETRIC.RGB, _PHOTOMETRIC.YCBCR)
_ALPHA = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
# Formats of other programs whose readers in tifffile follow offsets of their own.
NOT_FOLLOWED: Any = {"is_ndpi": False, "is_scanimage": False}
# Pixels of all tiles, for each pixel of the image: small images in large tiles have many.
MAX_PADDING, FREE_PADDING_PX = 4, 2**24
# Of a stack that is projected. Real planes are compressed to no less than a fiftieth.
FREE_STACK_BYTES, MAX_INFLATION = 2**31, 64
# OpenJPEG keeps each sample as 32 bit, twice.
JPEG_2000_BYTES = 8
# Of Python's numbers, for each byte of a tag.
TAG_BYTES = 16
# tifffile reads so many bytes of strips or tiles at a time.
BUFFER_BYTES = 2**26


@dataclass(frozen=True, eq=False)
class _Opened:
    """A file, and the planes of it that are to be read.

    Attributes:
        page: the first of them.
        numbers: of all of them.
        samples: of a pixel that are kept.
        is_of_channel: whether the selected channel is theirs, not one of their colours.
        selection: that chose them.
        choices: what the file holds, but for the colours of its pixels.
    """

    tiff: tifffile.TiffFile
    found: Directories
    stack: Stack
    page: tifffile.TiffPage
    numbers: list[int]
    samples: slice
    is_of_channel: bool
    selection: Selection
    choices: Choices
    warnings: tuple[str, ...]


def probe(data: File, check_shape: CheckShape, selection: Selection) -> Header:
    """As `nuclei.imaging.decoding.probe`."""
    with _opened(data, check_shape, selection) as file:
        return _header(file, selection)


def decode(data: File, check_shape: CheckShape, selection: Selection) -> Decoded:
    """As `nuclei.imaging.decoding.decode`."""
    with _opened(data, check_shape, selection) as file:
        return _decoded(file, check_shape, data, tiff_pixel_size(file.tiff, file.page))


@dataclass(frozen=True, eq=False)
class OpenPage:
    """One plane of an open TIFF.

    Attributes:
        page: as tifffile reads it.
        samples: of a pixel that are kept.
        is_of_channel: whether the selected channel is theirs, not one of their colours.
        has_windows: whether parts of it can be read as they are: its values are neither turned nor
            the indices of a palette.
    """

    page: tifffile.TiffPage
    samples: slice
    is_of_channel: bool
    has_windows: bool


class OpenTiff:
    """A TIFF that stays open, for many of its planes; not for several threads at once.

    Attributes:
        images: what the file holds: one stack, or one for each position of its OME-XML.
    """

    def __init__(self, data: File) -> None:
        """Read the directories and the description of a whole file; nothing is decompressed.

        Raises:
            InvalidImage: truncated, or more of something than any writer makes.
            ValueError, and whatever tifffile raises: damaged.
        """
        self._data = data
        self._found = directories(data)
        if self._found.is_cut:
            raise _truncated(self._found, "copy it again")
        self._tiff = tifffile.TiffFile(_stream(data), **NOT_FOLLOWED)
        images, self._warnings = stacks_of(self._tiff, self._found)
        self.images: tuple[Stack, ...] = tuple(images)
        self._size = tiff_pixel_size(self._tiff, self._tiff.pages.first)

    def decode(self, stack: Stack, check_shape: CheckShape, selection: Selection) -> Decoded:
        """Decode what is selected of one of the images; arguments and errors as `decode`."""
        file = _chosen(self._tiff, self._found, stack, self._warnings, check_shape, selection)
        return _decoded(file, check_shape, self._data, self._size)

    def page(self, stack: Stack, check_shape: CheckShape, selection: Selection) -> OpenPage:
        """What is known of a plane, and its place; arguments and errors as `decode`."""
        file = _chosen(self._tiff, self._found, stack, self._warnings, check_shape, selection)
        is_plain = file.page.photometric in (_PHOTOMETRIC.MINISBLACK, *_COLOUR)
        has_windows = is_plain and not stack.are_contiguous
        return OpenPage(file.page, file.samples, file.is_of_channel, has_windows)

    def size(self, stack: Stack) -> tuple[int, int]:
        """Height and width of the planes of one of the images."""
        page = _page(self._tiff, stack, int(stack.numbers.max()))
        return page.imagelength, page.imagewidth

    @property
    def pixel_size_um(self) -> PixelSize | None:
        return self._size[0]

    def close(self) -> None:
        self._tiff.close()


def _decoded(
    file: _Opened,
    check_shape: CheckShape,
    data: File,
    size: tuple[PixelSize | None, tuple[str, ...]],
) -> Decoded:
    planes = (_plane(file, number, check_shape, data) for number in file.numbers)
    pixels = next(planes)
    for plane in planes:
        np.maximum(pixels, plane, out=pixels)
    pixel_size, doubts = size
    warnings = file.warnings + doubts
    warnings += orientation_warning(_directory(file, file.numbers[0]).orientation)
    if file.found.is_cut:
        warnings += ("the file names a further page beyond its end: it may be truncated",)
    palette = _palette(file)
    if palette is not None and pixels.dtype == np.bool_:
        pixels = pixels.view(np.uint8)
    is_lossy = file.page.compression in (_JPEG, *_JPEG_2000)
    is_turned = file.page.photometric == _PHOTOMETRIC.MINISWHITE
    decoded = Decoded(pixels, pixel_size, palette, is_lossy, is_turned, warnings, file.choices)
    return decoded if file.is_of_channel else decoded.with_colour(file.selection)


class _View(io.RawIOBase):
    """Reads a view as a file, without a copy of it."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._view)}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        into = memoryview(buffer).cast("B")
        part = self._view[self._position : self._position + len(into)]
        into[: len(part)] = part
        self._position += len(part)
        return len(part)


def _stream(data: File) -> Any:
    return io.BytesIO(data) if isinstance(data, bytes) else _View(data)


def _truncated(found: Directories, remedy: str) -> InvalidImage:
    """Of what is left nothing says whether it was one plane of many."""
    return InvalidImage(
        "the TIFF is truncated (it ends before a page that it names, the one after "
        f"{found.count}); expected a whole file: {remedy}"
    )


@contextmanager
def _opened(data: File, check_shape: CheckShape, selection: Selection) -> Iterator[_Opened]:
    found = directories(data)
    if found.is_cut and selection.plane is None:
        raise _truncated(found, "send it again, or choose a `plane` that it still has")
    with tifffile.TiffFile(_stream(data), **NOT_FOLLOWED) as tiff:
        stack, warnings = stack_of(tiff, found)
        yield _chosen(tiff, found, stack, warnings, check_shape, selection)


def _chosen(
    tiff: tifffile.TiffFile,
    found: Directories,
    stack: Stack,
    warnings: tuple[str, ...],
    check_shape: CheckShape,
    selection: Selection,
) -> _Opened:
    numbers = stack.selected(selection)
    page = _page(tiff, stack, numbers[0])
    _check_page(page, check_shape)
    _check_projection(page, len(numbers))
    if _are_channels(page):
        names = _sample_names(page, stack, selection)
        channel = selection.channel_among(names)
        samples = slice(channel, channel + 1)
    else:
        names = stack.channel_names
        if names == ("",) and selection.channel is not None:
            names = _only_name(tiff)
        samples = slice(0, _colours(page))
        warnings += _dropped(page)
    is_of_channel = len(names) > 1 or not _is_in_colour(page)
    if is_of_channel and selection.channel is not None:
        number = selection.channel_among(names)
        if len(names) > 1:
            warnings += (chosen_channel(number, names),)
    choices = Choices(names, stack.planes)
    return _Opened(
        *(tiff, found, stack, page, numbers, samples, is_of_channel, selection, choices, warnings)
    )


def _page(tiff: tifffile.TiffFile, stack: Stack, number: int) -> tifffile.TiffPage:
    return tiff.pages[0 if stack.are_contiguous else number].aspage()


def _directory(file: _Opened, number: int) -> Directory:
    index = 0 if file.stack.are_contiguous else number
    return next(page for page in file.found.pages if page.index == index)


def _header(file: _Opened, selection: Selection) -> Header:
    page = file.page
    kept = file.samples.stop - file.samples.start
    channels = 3 if _has_palette(page) else kept
    if selection.channel is not None and not file.is_of_channel:
        channels = 1
    itemsize = np.dtype(page.dtype).itemsize
    plane = math.prod(page.shaped) * itemsize
    peak = plane + _directory(file, file.numbers[0]).value_bytes * TAG_BYTES + 2**20
    if len(file.numbers) > 1:
        peak += plane
    if kept > 1 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
        peak += page.imagelength * page.imagewidth * kept * itemsize
    if not page.is_contiguous:
        codec_bytes = JPEG_2000_BYTES if page.compression in _JPEG_2000 else 3 * itemsize
        peak += math.prod(page.chunks) * codec_bytes
        peak += min(sum(page.databytecounts), BUFFER_BYTES) * 2
    return Header(page.imagelength, page.imagewidth, channels, itemsize, peak)


def _has_palette(page: tifffile.TiffPage) -> bool:
    # The palette of an ImageJ file is for display: its indices are the intensities.
    return page.photometric == _PHOTOMETRIC.PALETTE and not page.parent.is_imagej


def _is_in_colour(page: tifffile.TiffPage) -> bool:
    return _colours(page) > 1 or _has_palette(page)


def _palette(file: _Opened) -> NDArray[np.uint8] | None:
    if not _has_palette(file.page):
        return None
    if file.page.colormap is None:
        raise ValueError("it has no palette")
    colours = file.page.colormap.T
    # Some writers store 8 bit where the format has 16; libtiff takes them for that, too.
    return (colours if colours.max() < 256 else colours >> 8).astype(np.uint8)


def _check_page(page: tifffile.TiffPage, check_shape: CheckShape) -> None:
    """Raises InvalidImage for a coding that is not read, and whatever `check_shape` does."""
    check_shape(page.imagelength, page.imagewidth)
    if page.is_tiled:
        check_shape(page.tilelength, page.tilewidth)
    name = _coding(page)
    if page.compression not in _READ or (
        page.photometric == _PHOTOMETRIC.YCBCR and page.compression != _JPEG
    ):
        raise InvalidImage(
            f"the TIFF has {name}, which is not read: save it as grey or RGB, uncompressed or with "
            "deflate"
        )
    if page.photometric not in (*_GREY, *_COLOUR, _PHOTOMETRIC.PALETTE):
        raise InvalidImage(f"the TIFF has {name}, which is not read: save it as grey or RGB")
    if page.dtype is None or page.imagedepth != 1 or not isinstance(page.bitspersample, int):
        raise InvalidImage(
            f"the TIFF has {name} with samples of {page.bitspersample} bit in "
            f"{page.imagedepth} layers, which is not read: save it with 8 or 16 bit, one plane"
        )
    if page.photometric == _PHOTOMETRIC.MINISWHITE and page.dtype.kind not in "bu":
        raise InvalidImage(
            f"the TIFF has {name} of {page.dtype}, which is not read: save it with black as zero"
        )
    _check_segments(page)


def _coding(page: tifffile.TiffPage) -> str:
    try:
        photometric = _PHOTOMETRIC(page.photometric).name
    except ValueError:
        photometric = f"photometric {page.photometric}"
    return f"{photometric} pixels with {_compression(page)} compression"


def _compression(page: tifffile.TiffPage) -> str:
    try:
        return _COMPRESSION(page.compression).name
    except ValueError:
        return f"number {page.compression}"


def _check_segments(page: tifffile.TiffPage) -> None:
    """Bound the work before it starts, and refuse files that end early.

    Decoders give zeros for strips and tiles that are missing.
    """
    n_segments = math.prod(page.chunked)
    values = n_segments * math.prod(page.chunks)
    pixels = page.imagelength * page.imagewidth
    if values > (MAX_PADDING * pixels + FREE_PADDING_PX) * page.samplesperpixel:
        raise InvalidImage(
            f"the tiles of the TIFF hold {values} values for an image of {pixels} pixels: save it "
            "with smaller tiles"
        )
    if n_segments > MAX_SEGMENTS:
        raise InvalidImage(
            f"the TIFF is cut into {n_segments} strips or tiles; at most {MAX_SEGMENTS} are read: "
            "save it with larger ones"
        )
    most_bytes = 2 * values * np.dtype(page.dtype).itemsize + 4096 * n_segments
    if page.compression != _COMPRESSION.NONE and sum(page.databytecounts) > most_bytes:
        raise InvalidImage(
            "the strips or tiles of the TIFF are far longer than their pixels: save it again"
        )
    end = page.parent.filehandle.size
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))[:n_segments]
    if len(segments) < n_segments or any(
        size == 0 or offset + size > end for offset, size in segments
    ):
        raise InvalidImage(
            "the TIFF is truncated (pixel data beyond the end of the file); expected a whole "
            "file: send it again"
        )


def _check_projection(page: tifffile.TiffPage, n_planes: int) -> None:
    """Bound the work on planes that may all name the same bytes."""
    n_bytes = n_planes * math.prod(page.shaped) * np.dtype(page.dtype).itemsize
    most = max(FREE_STACK_BYTES, MAX_INFLATION * page.parent.filehandle.size)
    if n_planes > 1 and n_bytes > most:
        raise InvalidImage(
            f"the {n_planes} planes of the TIFF inflate to {n_bytes} bytes; at most {most} of this "
            "file are projected: choose one with `plane`, or project some of them elsewhere"
        )


def _colours(page: tifffile.TiffPage) -> int:
    """How many samples of a pixel are its colour."""
    return 3 if page.photometric in _COLOUR else 1


def _are_channels(page: tifffile.TiffPage) -> bool:
    """Whether the samples of a pixel are neither its colour nor alpha."""
    count, extra = page.samplesperpixel, tuple(page.extrasamples)
    has_alpha = count == _colours(page) + 1 and len(extra) == 1 and extra[0] in _ALPHA
    return not (count == _colours(page) or has_alpha or _is_rgba(page))


def _is_rgba(page: tifffile.TiffPage) -> bool:
    return bool(page.photometric == _PHOTOMETRIC.RGB and page.samplesperpixel == 4)


def _dropped(page: tifffile.TiffPage) -> tuple[str, ...]:
    """A sentence about a sample that is left out and is not said to be alpha."""
    if _is_rgba(page) and not set(page.extrasamples) & set(_ALPHA):
        return ("the fourth channel of the RGB image was taken for alpha and left out",)
    return ()


def _sample_names(page: tifffile.TiffPage, stack: Stack, selection: Selection) -> tuple[str, ...]:
    """Names of the channels that are samples of a pixel, of which one is selected.

    Raises:
        ChoiceRequired: none is selected.
        InvalidImage: there are channels of two kinds.
    """
    count = page.samplesperpixel
    if len(stack.channel_names) > 1:
        raise InvalidImage(
            f"the TIFF holds {described_channels(stack.channel_names)} with {count} samples a "
            "pixel each; save the channel to segment"
        )
    names = ome_channel_names(page.parent)
    names = names if len(names) == count else ("",) * count
    if selection.channel is None:
        raise ChoiceRequired(
            f"the TIFF holds {described_channels(names)}",
            "choose one with `channel` (number or name)",
            names,
            stack.planes,
        )
    return names


def _only_name(tiff: tifffile.TiffFile) -> tuple[str]:
    """The name of the only channel, "" when it is not known."""
    names = ome_channel_names(tiff)
    return (names[0],) if len(names) == 1 else ("",)


def _plane(file: _Opened, number: int, check_shape: CheckShape, data: File) -> NDArray[Any]:
    """[H, W] or [H, W, 3], bytes in the order of the processor; not shared."""
    page = _page(file.tiff, file.stack, number)
    if file.stack.are_contiguous:
        stored = _contiguous(page, number, data)
    else:
        if page.shaped != file.page.shaped or page.dtype != file.page.dtype:
            raise InvalidImage("the planes of the TIFF differ in size or type: choose one")
        _check_page(page, check_shape)
        _check_streams(page, data)
        try:
            stored = page.asarray(squeeze=False, maxworkers=1)
        except MemoryError:
            raise
        except Exception as error:  # each codec has its own
            raise InvalidImage(
                f"the {_compression(page)} data of the TIFF do not give the pixels that it "
                "declares: it is truncated or damaged; send it again"
            ) from error
    pixels = _arranged(stored, file.samples)
    if page.photometric == _PHOTOMETRIC.MINISWHITE:
        if pixels.dtype == np.bool_:
            np.logical_not(pixels, out=pixels)
        else:
            np.subtract((1 << page.bitspersample) - 1, pixels, out=pixels)
    return pixels


def _contiguous(page: tifffile.TiffPage, number: int, data: File) -> NDArray[Any]:
    """A plane that has no directory of its own: it follows the one that has, as the others do."""
    dtype = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
    start = page.dataoffsets[0] + number * page.nbytes
    count = math.prod(page.shaped)
    pixels = np.frombuffer(data, dtype, count, start).astype(dtype.newbyteorder("="))
    return pixels.reshape(page.shaped)


def _arranged(stored: NDArray[Any], samples: slice) -> NDArray[Any]:
    """[H, W] or [H, W, S] of tifffile's [separate samples, 1, H, W, samples of a pixel]."""
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if len(native) == 1:
        return with_samples(native[0, 0], samples)
    chosen = native[samples, 0, :, :, 0]
    return chosen[0] if len(chosen) == 1 else np.ascontiguousarray(np.moveaxis(chosen, 0, -1))


def _check_streams(page: tifffile.TiffPage, data: File) -> None:
    """Refuse strips and tiles that state a size of their own which is not the page's."""
    if page.compression not in (_JPEG, *_JPEG_2000):
        return
    size_of = _jpeg_size if page.compression == _JPEG else _jpeg_2000_size
    largest = page.chunks[1:] if page.axes[0] == "S" else page.chunks
    largest = (*largest, 1)[:3]
    for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        stated = size_of(bytes(data[offset : offset + length]))
        if not all(0 < side <= most for side, most in zip(stated, largest, strict=True)):
            raise ValueError(f"a strip or tile of {largest} values holds {stated}")


def _jpeg_size(stream: bytes) -> tuple[int, int, int]:
    """Height, width and samples of a JPEG stream, which is whole."""
    frame = jpeg.frame_of(stream)
    jpeg.check_scans(stream, frame)
    return frame.height, frame.width, frame.samples


def _jpeg_2000_size(stream: bytes) -> tuple[int, int, int]:
    """Height, width and samples that the marker SIZ states."""
    start = stream.find(b"\xff\x4f\xff\x51")
    if start < 0:
        raise ValueError("a strip or tile is no JPEG 2000 stream")
    width, height, left, top = struct.unpack_from(">4I", stream, start + 8)
    (samples,) = struct.unpack_from(">H", stream, start + 40)
    return height - top, width - left, samples
