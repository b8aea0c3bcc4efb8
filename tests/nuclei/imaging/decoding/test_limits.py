"""What a file may cost: time and memory of attacks, and the memory that a header promises."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from nuclei.errors import InvalidImage
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.images import probe_frame, read_frame
from nuclei.imaging.selection import EVERYTHING, Selection
from tests.attacks.files import (
    jpeg_of_scans,
    ome_tiff_of_text,
    png_of_chunks,
    png_rgba16,
    tiff_of_huge_tags,
    tiff_of_one_tile,
)
from tests.nuclei.imaging.decoding.cost import cost_of
from tests.nuclei.imaging.decoding.files import GREY8, pillow, tiff

MIB = 2**20


def circle_of_pages(count: int) -> bytes:
    """A TIFF whose last page names a page in the middle as the next one."""
    data = bytearray(tiff(np.stack([GREY8] * count), photometric="minisblack", metadata=None))
    offsets = [page.offset for page in tifffile.TiffFile(io.BytesIO(data)).pages]
    (n_tags,) = struct.unpack_from("<H", data, offsets[-1])
    struct.pack_into("<I", data, offsets[-1] + 2 + 12 * n_tags, offsets[count // 2])
    return bytes(data)


def large_tiles_of_a_line() -> bytes:
    """An image of one row in tiles of 8192 rows: 67 million pixels of padding, in 90 kB."""
    return tiff(np.zeros((1, 8192), np.uint8), tile=(8192, 16), compression="zlib")


def jpeg_in_a_tiff(stream: bytes, side_px: int) -> bytes:
    """A TIFF, grey [side, side], whose only strip is a JPEG stream of another size."""
    data = bytearray(tiff(np.zeros((side_px, side_px), np.uint8), compression="jpeg"))
    tags = tifffile.TiffFile(io.BytesIO(data)).pages[0].aspage().tags
    struct.pack_into("<I", data, tags["StripOffsets"].valueoffset, len(data))
    where = tags["StripByteCounts"]
    struct.pack_into("<HI", data, where.offset + 2, 4, 1)
    struct.pack_into("<I", data, where.valueoffset, len(stream))
    return bytes(data) + stream


def ome_of_planes(attributes: str) -> bytes:
    """Two pages whose OME-XML names numbers of planes."""
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        f'<Pixels DimensionOrder="XYZCT" SizeX="50" SizeY="40" {attributes}/></Pixels>'
        "</Image></OME>"
    )
    return tiff(np.stack([GREY8] * 2), photometric="minisblack", metadata=None, description=xml)


def long_strips() -> bytes:
    """Thousands of strips that all name the same long stream."""
    data = bytearray(tiff(np.zeros((4000, 16), np.uint8), compression="zlib", rowsperstrip=1))
    tags = tifffile.TiffFile(io.BytesIO(data)).pages[0].aspage().tags
    counts, offsets = tags["StripByteCounts"], tags["StripOffsets"]
    struct.pack_into("<HI", data, counts.offset + 2, 4, 4000)
    struct.pack_into("<I", data, counts.offset + 8, len(data))
    struct.pack_into("<4000I", data, offsets.valueoffset, *[len(data) + 16000] * 4000)
    stream = zlib.compress(bytes(16)) + bytes(4 * MIB)
    return bytes(data) + struct.pack("<4000I", *[len(stream)] * 4000) + stream


def overlapping_pages(count: int) -> bytes:
    """Pages of 4,000 tags each, whose directories begin 14 bytes after one another."""
    data = bytearray(struct.pack("<2sHI", b"II", 42, 8) + bytes(12 * 4000 + 14 * count))
    for page in range(count):
        at = 8 + 14 * page
        struct.pack_into("<H", data, at, 4000)
        struct.pack_into("<I", data, at + 2 + 12 * 4000, at + 14)
    return bytes(data)


def pages_of_one_strip(count: int, side_px: int) -> bytes:
    """Pages of zeros that all name the same strip."""
    data = tiff(np.zeros((side_px, side_px), np.uint8), compression="zlib", metadata=None)
    first = tifffile.TiffFile(io.BytesIO(data)).pages[0].aspage()
    directory = data[first.offset : first.offset + 2 + 12 * len(first.tags)]
    start = len(data) + len(data) % 2
    offsets = [start + number * (len(directory) + 4) for number in range(count)]
    links = [struct.pack("<I", offset) for offset in (*offsets[1:], 0)]
    body = b"".join(directory + link for link in links)
    return data[:4] + struct.pack("<I", start) + data[8:].ljust(start - 8, b"\0") + body


ATTACKS: dict[str, Callable[[], bytes]] = {
    "a million entries of one tile": lambda: tiff_of_one_tile(16384, 16),
    "tiles around a line": large_tiles_of_a_line,
    "pages of huge tags": lambda: tiff_of_huge_tags(100, 4 * MIB),
    "pages of large tags": lambda: tiff_of_huge_tags(100, MIB // 4),
    "pages that overlap": lambda: overlapping_pages(9000),
    "a circle of pages": lambda: circle_of_pages(300),
    "a thousand scans": lambda: jpeg_of_scans(1000, 2048),
    "a thousand scans in a TIFF": lambda: jpeg_in_a_tiff(jpeg_of_scans(1000, 1024), 1024),
    "a large JPEG in a small TIFF": lambda: jpeg_in_a_tiff(
        pillow(Image.new("L", (8000, 8000)), "JPEG"), 64
    ),
    "millions of chunks": lambda: png_of_chunks(1_000_000),
    "millions of segments": lambda: b"\xff\xd8" + b"\xff\xe2\0\2" * 2_000_000,
    "strips of one long stream": long_strips,
    "long XML": lambda: ome_tiff_of_text(16 * MIB - 1000),
    "too long XML": lambda: ome_tiff_of_text(16 * MIB),
    "a billion planes": lambda: ome_of_planes('SizeZ="1000000000" SizeC="1" SizeT="1"><TiffData'),
    "a billion planes at once": lambda: ome_of_planes(
        'SizeZ="2" SizeC="1" SizeT="1"><TiffData IFD="0" PlaneCount="1000000000"'
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("use", [probe_frame, read_frame], ids=["probe", "read"])
def test_small_files_cost_little(attack: str, use: Callable[[bytes], Any]) -> None:
    data = ATTACKS[attack]()
    cost = cost_of(use, data)
    assert cost.cpu_s < 1
    assert cost.memory_bytes < 80 * MIB + 4 * len(data)


def test_a_projection_does_not_multiply_the_work() -> None:
    data, selection = pages_of_one_strip(400, 4096), Selection(project="max")
    with pytest.raises(InvalidImage, match="inflate"):
        probe_frame(data, selection=selection)
    few = pages_of_one_strip(4, 256)
    assert read_frame(few, options=FrameOptions(selection)).pixels.shape == (256, 256, 1)


def test_one_tile_two_thousand_times_costs_what_its_pixels_cost() -> None:
    assert cost_of(read_frame, tiff_of_one_tile(8096, 352)).cpu_s < 2


SIDE = 1000
PROJECTION = Selection(project="max")


@cache
def rgb() -> NDArray[np.uint16]:
    """Squares of [SIDE, SIDE, 3]."""
    squares = np.random.default_rng(3).integers(0, 65536, (SIDE // 10, SIDE // 10, 3), np.uint16)
    return squares.repeat(10, axis=0).repeat(10, axis=1)


def rgb8() -> NDArray[np.uint8]:
    return (rgb() >> 8).astype(np.uint8)


def grey() -> NDArray[np.uint16]:
    return np.ascontiguousarray(rgb()[:, :, 0])


def stack(**options: Any) -> bytes:
    return tiff(planar(), imagej=True, metadata={"axes": "ZYX"}, **options)


def planar() -> NDArray[np.uint16]:
    return np.ascontiguousarray(np.moveaxis(rgb(), -1, 0))


def colour(**options: Any) -> bytes:
    return tiff(rgb(), photometric="rgb", **options)


def separate(**options: Any) -> bytes:
    return tiff(planar(), photometric="rgb", planarconfig="separate", **options)


def rgba() -> bytes:
    return tiff(np.dstack([rgb(), grey()]), photometric="rgb", compression="lzw")


FORMS: dict[str, tuple[Callable[[], bytes], Selection]] = {
    "png rgba 16": (lambda: png_rgba16(SIDE), EVERYTHING),
    "png palette": (lambda: pillow(Image.fromarray(rgb8()).convert("P"), "PNG"), EVERYTHING),
    "png 1 bit": (lambda: pillow(Image.fromarray(rgb8()[:, :, 0] > 127), "PNG"), EVERYTHING),
    "png blue": (lambda: pillow(rgb8(), "PNG"), Selection(channel="blue")),
    "jpeg": (lambda: pillow(rgb8(), "JPEG"), EVERYTHING),
    "jpeg progressive": (
        lambda: pillow(rgb8(), "JPEG", progressive=True, subsampling=0),
        EVERYTHING,
    ),
    "jpeg cmyk": (lambda: pillow(Image.fromarray(rgb8()).convert("CMYK"), "JPEG"), EVERYTHING),
    "tiff": (lambda: tiff(grey()), EVERYTHING),
    "tiff big-endian": (lambda: tiff(grey(), byteorder=">"), EVERYTHING),
    "tiff rgba": (rgba, EVERYTHING),
    "tiff planar": (separate, EVERYTHING),
    "tiff planar deflate": (lambda: separate(compression="zlib"), EVERYTHING),
    "tiff one strip": (lambda: colour(compression="zstd", rowsperstrip=SIDE), EVERYTHING),
    "tiff one strip, predicted": (
        lambda: colour(compression="lzw", predictor=True, rowsperstrip=SIDE),
        EVERYTHING,
    ),
    "tiff jpeg": (lambda: tiff(rgb8(), compression="jpeg"), EVERYTHING),
    "tiff jpeg 2000": (lambda: tiff(rgb8(), compression="jpeg2000"), EVERYTHING),
    "tiff white is zero": (
        lambda: tiff(grey(), photometric="miniswhite", compression="lzw"),
        EVERYTHING,
    ),
    "stack": (stack, PROJECTION),
    "stack deflate": (lambda: stack(compression="zlib"), PROJECTION),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_header_bounds_the_memory(form: str) -> None:
    make, selection = FORMS[form]
    data = make()
    header = probe_frame(data, selection=selection)
    cost = cost_of(lambda file: read_frame(file, options=FrameOptions(selection)), data)
    assert cost.memory_bytes < header.peak_bytes + 4 * MIB
    assert header.peak_bytes < 40 * SIDE * SIDE + 3 * len(data) + 8 * MIB
