"""Image files that are small, and cost much to read: each made for any size, all valid on the face.

Sizes are parameters, so that a test can ask for as much as it can afford to lose.
"""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tifffile
from PIL import Image

_SHORT, _LONG = 3, 4
# Tags of TIFF 6.0.
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _STRIP_BYTES, _SUB_IFDS = 273, 279, 330
_TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_BYTES = 322, 323, 324, 325
_DEFLATE, _BLACK_IS_ZERO = 8, 1

# Of zlib's checksum, and the zeros that are compressed once and then repeated.
_ADLER_MODULUS = 65521
_BLOCK = 2**20
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"


def tiff_of_one_tile(side_px: int, tile_px: int) -> bytes:
    """A deflated TIFF, uint8 [side, side], all of whose tiles name the same bytes.

    Args:
        side_px: a multiple of `tile_px`.
        tile_px: a multiple of 16; each tile costs 8 bytes of the file.
    """
    tile = zlib.compress(bytes(tile_px * tile_px), 9)
    count = (side_px // tile_px) ** 2
    values = {
        _WIDTH: (_LONG, [side_px]),
        _LENGTH: (_LONG, [side_px]),
        _BITS: (_SHORT, [8]),
        _COMPRESSION: (_SHORT, [_DEFLATE]),
        _PHOTOMETRIC: (_SHORT, [_BLACK_IS_ZERO]),
        _TILE_WIDTH: (_LONG, [tile_px]),
        _TILE_LENGTH: (_LONG, [tile_px]),
        _TILE_OFFSETS: (_LONG, np.full(count, 8, "<u4")),
        _TILE_BYTES: (_LONG, np.full(count, len(tile), "<u4")),
    }
    out = io.BytesIO(b"II*\x00" + bytes(4) + tile)
    at = out.seek(0, io.SEEK_END)
    entries = []
    for tag, (kind, numbers) in values.items():
        data = np.asarray(numbers, "<u2" if kind == _SHORT else "<u4").tobytes()
        where = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", at)
        if len(data) > 4:
            at += out.write(data)
        entries.append(struct.pack("<HHI", tag, kind, len(numbers)) + where)
    out.write(struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4))
    out.seek(4)
    out.write(struct.pack("<I", at))
    return out.getvalue()


def tiff_of_huge_tags(pages: int, tag_bytes: int) -> bytes:
    """A TIFF of small pages, all of whose tags SubIFDs name the same `tag_bytes` bytes.

    As Python's numbers, as tifffile reads them, they take ten times as much, for each page.
    """
    entries = (
        struct.pack("<HHII", _WIDTH, _LONG, 1, 16)
        + struct.pack("<HHII", _LENGTH, _LONG, 1, 16)
        + struct.pack("<HHIHH", _BITS, _SHORT, 1, 8, 0)
        + struct.pack("<HHIHH", _PHOTOMETRIC, _SHORT, 1, _BLACK_IS_ZERO, 0)
        + struct.pack("<HHII", _STRIP_OFFSETS, _LONG, 1, 8)
        + struct.pack("<HHII", _STRIP_BYTES, _LONG, 1, 256)
        + struct.pack("<HHII", _SUB_IFDS, _LONG, tag_bytes // 4, 8)
    )
    first = 8 + tag_bytes
    page_bytes = 2 + len(entries) + 4
    out = io.BytesIO()
    out.write(b"II*\x00" + struct.pack("<I", first) + b"\1" * tag_bytes)
    for page in range(1, pages + 1):
        following = first + page * page_bytes if page < pages else 0
        out.write(struct.pack("<H", 7) + entries + struct.pack("<I", following))
    return out.getvalue()


def jpeg_of_scans(scans: int, side_px: int) -> bytes:
    """A progressive JPEG, uint8 [side, side], whose last scan comes that many times.

    Each scan makes a decoder visit all coefficients of the image again.
    """
    whole = io.BytesIO()
    Image.new("L", (side_px, side_px)).save(whole, "JPEG", progressive=True)
    before, scan = whole.getvalue()[: -len(_JPEG_END)].rsplit(_JPEG_SCAN, 1)
    return before + (_JPEG_SCAN + scan) * scans + _JPEG_END


def png_rgba16(side_px: int) -> bytes:
    """A PNG of black pixels with alpha, uint16 [side, side, 4], a thousandth of their size."""
    return _black_png(side_px, depth=16, colour=6, row_bytes=8 * side_px)


def png_of_chunks(chunks: int) -> bytes:
    """A PNG of one pixel among that many empty chunks, of 12 bytes each."""
    return _black_png(1, depth=8, colour=0, row_bytes=1, between=_chunk(b"teXt", b"") * chunks)


def _black_png(
    side_px: int, depth: int, colour: int, row_bytes: int, between: bytes = b""
) -> bytes:
    header = struct.pack(">IIBBBBB", side_px, side_px, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + between
        + _chunk(b"IDAT", _deflated_zeros(side_px * (1 + row_bytes)))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _deflated_zeros(count: int) -> bytes:
    """A zlib stream of zeros, made in no time: its blocks are all the same."""
    whole, rest = divmod(count, _BLOCK)
    compressor = zlib.compressobj(9, wbits=-15)
    block = compressor.compress(bytes(_BLOCK)) + compressor.flush(zlib.Z_FULL_FLUSH)
    last = compressor.compress(bytes(rest)) + compressor.flush()
    checksum = (count % _ADLER_MODULUS) << 16 | 1
    return b"\x78\xda" + block * whole + last + struct.pack(">I", checksum)


def ome_tiff_of_text(text_bytes: int) -> bytes:
    """An OME-TIFF of one small plane, whose XML is that long."""
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="64" '
        'SizeY="64" SizeZ="1" SizeC="1" SizeT="1"><TiffData/></Pixels></Image>'
        + "<A/>" * (text_bytes // 4)
        + "</OME>"
    )
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((64, 64), np.uint8), description=xml, metadata=None)
    return file.getvalue()


@dataclass(frozen=True)
class AttackFile:
    """A kind of file.

    Attributes:
        large: makes one that would stop a service without limits, or fill its memory.
        small: makes one whose cost is told from that of a frame, in a second.
    """

    large: Callable[[], bytes]
    small: Callable[[], bytes]


_MIB = 2**20
ATTACK_FILES = {
    "a million tile entries": AttackFile(
        lambda: tiff_of_one_tile(16384, 16), lambda: tiff_of_one_tile(4096, 16)
    ),
    "two thousand tile entries": AttackFile(
        lambda: tiff_of_one_tile(16016, 352), lambda: tiff_of_one_tile(3520, 352)
    ),
    "pages of huge tags": AttackFile(
        lambda: tiff_of_huge_tags(100, 2 * _MIB), lambda: tiff_of_huge_tags(10, 4 * _MIB)
    ),
    "a thousand scans": AttackFile(
        lambda: jpeg_of_scans(1000, 2048), lambda: jpeg_of_scans(300, 1024)
    ),
    "16-bit RGBA": AttackFile(lambda: png_rgba16(6000), lambda: png_rgba16(3000)),
    "a million chunks": AttackFile(
        lambda: png_of_chunks(1_000_000), lambda: png_of_chunks(300_000)
    ),
    "long XML": AttackFile(lambda: ome_tiff_of_text(8 * _MIB), lambda: ome_tiff_of_text(4 * _MIB)),
}
