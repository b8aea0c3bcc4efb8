"""What a file may cost: time and memory of attacks, and the memory that a header promises."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from nuclei.errors import InvalidImage
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.images import probe_frame, read_frame
from nuclei.imaging.selection import Selection
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


SIDE = 1500
RANDOM = np.random.default_rng(3)
RGB = np.kron(RANDOM.integers(0, 65536, (SIDE // 10, SIDE // 10, 3)), np.ones((10, 10, 1)))
RGB = RGB.astype(np.uint16)
RGB8, GREY = (RGB >> 8).astype(np.uint8), np.ascontiguousarray(RGB[:, :, 0])
PLANAR = np.ascontiguousarray(np.moveaxis(RGB, -1, 0))
PALETTE = Image.fromarray(RGB8).convert("P")
FORMS: dict[str, tuple[bytes, Selection]] = {
    "png rgba 16": (png_rgba16(SIDE), Selection()),
    "png palette": (pillow(PALETTE, "PNG"), Selection()),
    "png 1 bit": (pillow(Image.fromarray(RGB8[:, :, 0] > 127), "PNG"), Selection()),
    "png blue": (pillow(RGB8, "PNG"), Selection(channel="blue")),
    "jpeg": (pillow(RGB8, "JPEG"), Selection()),
    "jpeg progressive": (pillow(RGB8, "JPEG", progressive=True, subsampling=0), Selection()),
    "jpeg cmyk": (pillow(Image.fromarray(RGB8).convert("CMYK"), "JPEG"), Selection()),
    "tiff": (tiff(GREY), Selection()),
    "tiff big-endian": (tiff(GREY, byteorder=">"), Selection()),
    "tiff rgba": (tiff(np.dstack([RGB, GREY]), photometric="rgb", compression="lzw"), Selection()),
    "tiff planar": (tiff(PLANAR, photometric="rgb", planarconfig="separate"), Selection()),
    "tiff planar deflate": (
        tiff(PLANAR, photometric="rgb", planarconfig="separate", compression="zlib"),
        Selection(),
    ),
    "tiff one strip": (
        tiff(RGB, photometric="rgb", compression="zstd", predictor=True),
        Selection(),
    ),
    "tiff one strip, predicted": (
        tiff(RGB, photometric="rgb", compression="lzw", predictor=True, rowsperstrip=SIDE),
        Selection(),
    ),
    "tiff jpeg": (tiff(RGB8, compression="jpeg"), Selection()),
    "tiff jpeg 2000": (tiff(RGB8, compression="jpeg2000"), Selection()),
    "tiff white is zero": (tiff(GREY, photometric="miniswhite", compression="lzw"), Selection()),
    "stack": (tiff(PLANAR, imagej=True, metadata={"axes": "ZYX"}), Selection(project="max")),
    "stack deflate": (
        tiff(PLANAR, imagej=True, metadata={"axes": "ZYX"}, compression="zlib"),
        Selection(project="max"),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_header_bounds_the_memory(form: str) -> None:
    data, selection = FORMS[form]
    header = probe_frame(data, selection=selection)
    cost = cost_of(lambda file: read_frame(file, options=FrameOptions(selection)), data)
    assert cost.memory_bytes < header.peak_bytes + 4 * MIB
    assert header.peak_bytes < 40 * SIDE * SIDE + 3 * len(data) + 8 * MIB
