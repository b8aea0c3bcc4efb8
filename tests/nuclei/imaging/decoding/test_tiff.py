"""The same pixels whatever the coding, layout and writer of a TIFF."""

import io
import itertools
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from nuclei.errors import InvalidImage
from nuclei.imaging.images import read_frame
from tests.nuclei.imaging.decoding.files import GREY8, GREY16, RGB8, RGB16, pillow, tiff

LOSSLESS = (None, "lzw", "zlib", "packbits", "zstd")
PREDICTED = ("lzw", "zlib", "zstd")
LAYOUTS: dict[str, dict[str, Any]] = {
    "strips": {"rowsperstrip": 7},
    "tiles": {"tile": (16, 32)},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True, "rowsperstrip": 7},
}
COLOURS: dict[str, tuple[NDArray[Any], dict[str, Any]]] = {
    "grey 8": (GREY8, {"photometric": "minisblack"}),
    "grey 16": (GREY16, {"photometric": "minisblack"}),
    "rgb 8": (RGB8, {"photometric": "rgb"}),
    "rgb 16": (RGB16, {"photometric": "rgb"}),
    "rgb 16 planar": (RGB16, {"photometric": "rgb", "planarconfig": "separate"}),
}


def written(pixels: NDArray[Any], **options: Any) -> bytes:
    if options.get("planarconfig") == "separate":
        pixels = np.moveaxis(pixels, -1, 0)
    return tiff(pixels, **options)


def assert_reads(data: bytes, expected: NDArray[Any]) -> None:
    pixels = read_frame(data).pixels
    assert pixels.dtype == expected.dtype
    np.testing.assert_array_equal(pixels, expected.reshape(pixels.shape))


@pytest.mark.parametrize("compression", LOSSLESS)
@pytest.mark.parametrize("colours", COLOURS)
def test_lossless_codings_give_the_same_pixels(compression: str | None, colours: str) -> None:
    pixels, options = COLOURS[colours]
    predictors = (False, True) if compression in PREDICTED else (False,)
    for predictor, layout in itertools.product(predictors, LAYOUTS.values()):
        coding = {"compression": compression, "predictor": predictor, **layout}
        assert_reads(written(pixels, **options, **coding), pixels)


@pytest.mark.parametrize("compression", LOSSLESS)
def test_grey_in_which_white_is_zero(compression: str | None) -> None:
    data = tiff(65535 - GREY16, photometric="miniswhite", compression=compression)
    assert_reads(data, GREY16)


@pytest.mark.parametrize("compression", LOSSLESS)
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("alpha", ["unassalpha", "assocalpha"])
def test_alpha_is_left_out(compression: str | None, planar: str, alpha: str) -> None:
    faint = np.dstack([RGB8, np.full_like(GREY8, 3)])
    options = {"photometric": "rgb", "extrasamples": [alpha], "planarconfig": planar}
    data = written(faint, compression=compression, **options)
    assert_reads(data, RGB8)
    assert read_frame(data).warnings == ()


def test_a_fourth_channel_without_a_name_is_left_out_with_a_word() -> None:
    four = np.dstack([RGB8, GREY8])
    frame = read_frame(tiff(four, photometric="rgb", extrasamples=["unspecified"]))
    np.testing.assert_array_equal(frame.pixels, RGB8)
    assert any("fourth channel" in warning for warning in frame.warnings)


@pytest.mark.parametrize("compression", LOSSLESS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_come_in_the_order_in_which_they_are_stored(
    compression: str | None, orientation: int
) -> None:
    tags = [(274, "H", 1, orientation, True)]
    frame = read_frame(tiff(RGB8, photometric="rgb", compression=compression, extratags=tags))
    np.testing.assert_array_equal(frame.pixels, RGB8)
    assert ("orientation" in " ".join(frame.warnings)) == (orientation != 1)


@pytest.mark.parametrize("shift", [8, 0], ids=["16 bit", "8 bit"])
@pytest.mark.parametrize("compression", LOSSLESS)
def test_palettes(compression: str | None, shift: int) -> None:
    colours = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 9)])
    data = tiff(
        GREY8,
        photometric="palette",
        colormap=colours.astype(np.uint16) << shift,
        compression=compression,
    )
    assert_reads(data, np.stack([GREY8, 255 - GREY8, np.full_like(GREY8, 9)], axis=2))


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_packed_bits(bits: int) -> None:
    pixels = GREY16 >> (16 - bits)
    assert_reads(tiff(pixels, photometric="minisblack", bitspersample=bits, rowsperstrip=8), pixels)


@pytest.mark.parametrize(
    "compression", ["tiff_lzw", "tiff_deflate", "packbits", "group4", "group3"]
)
def test_masks_of_libtiff(compression: str) -> None:
    mask = GREY8 > 127
    data = pillow(Image.fromarray(mask), "TIFF", compression=compression)
    assert_reads(data, mask.astype(np.uint8) * 255)


@pytest.mark.parametrize("scheme", [1, 5, 8, 32773], ids=["none", "LZW", "deflate", "packbits"])
def test_colours_of_libtiff(scheme: int) -> None:
    done, data = cv2.imencode(".tif", RGB16[:, :, ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, scheme])
    assert done
    assert_reads(data.tobytes(), RGB16)


SMOOTH = cv2.GaussianBlur(RGB8, (0, 0), 8)


@pytest.mark.parametrize("layout", [{}, {"tile": (16, 16)}, {"rowsperstrip": 16}])
@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000"])
@pytest.mark.parametrize("colours", ["grey", "rgb"])
def test_lossy_codings_stay_near(colours: str, compression: str, layout: dict[str, Any]) -> None:
    pixels = SMOOTH[:, :, 0] if colours == "grey" else SMOOTH
    args = {"level": 98} if compression == "jpeg" else {"level": 60}
    data = tiff(pixels, compression=compression, compressionargs=args, **layout)
    read = read_frame(data).pixels
    assert np.abs(read.astype(int) - pixels.reshape(read.shape)).max() < 12


def test_lossless_jpeg_2000_of_16_bit() -> None:
    assert_reads(tiff(GREY16, compression="jpeg2000"), GREY16)


def test_jpeg_of_12_bit() -> None:
    pixels = SMOOTH[:, :, 0].astype(np.uint16) * 16
    args = {"bitspersample": 12, "level": 98}
    data = tiff(pixels, compression="jpeg", bitspersample=12, compressionargs=args)
    read = read_frame(data).pixels[:, :, 0]
    assert read.dtype == np.uint16
    assert np.abs(read.astype(int) - pixels).max() < 100


def pages(*images: tuple[NDArray[Any], dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for pixels, options in images:
            writer.write(pixels, metadata=None, **options)
    return file.getvalue()


def test_the_frame_after_its_thumbnail() -> None:
    thumbnail = GREY8[::4, ::4], {"subfiletype": 1}
    assert_reads(pages(thumbnail, (GREY16, {"compression": "lzw"})), GREY16)


def test_the_frame_before_its_pyramid() -> None:
    reduced = {"subfiletype": 1}
    assert_reads(pages((GREY16, {"subifds": 1}), (GREY16[::2, ::2], reduced)), GREY16)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (tiff(GREY8, compression="png"), "PNG compression"),
        (tiff(GREY8, compression="jpegxl"), "JPEGXL compression"),
        (pillow(Image.fromarray(RGB8).convert("CMYK"), "TIFF"), "SEPARATED pixels"),
        (tiff(np.zeros((32, 32, 32), np.uint8), volumetric=True, tile=(16, 16, 16)), "32 layers"),
        (tiff(GREY8.astype(np.float32), photometric="miniswhite"), "MINISWHITE pixels"),
        (tiff(GREY8.astype(np.int16), photometric="miniswhite"), "MINISWHITE pixels"),
    ],
    ids=["png", "jpeg xl", "cmyk", "volumetric", "white is zero of floats", "of signed integers"],
)
def test_valid_codings_that_are_not_read_are_named(data: bytes, named: str) -> None:
    with pytest.raises(InvalidImage, match=named) as refused:
        read_frame(data)
    assert "damaged" not in str(refused.value)
    assert "save it" in str(refused.value)


@pytest.mark.parametrize("compression", ["lzw", "zlib", "packbits", "zstd", "jpeg", "jpeg2000"])
def test_a_cut_strip_is_damage(compression: str) -> None:
    data = bytearray(tiff(GREY8, compression=compression, rowsperstrip=40))
    page = tifffile.TiffFile(io.BytesIO(data)).pages[0].aspage()
    tag = page.tags["StripByteCounts"]
    short = page.databytecounts[0] // 2
    data[tag.valueoffset : tag.valueoffset + 2] = short.to_bytes(2, "little")
    with pytest.raises(InvalidImage, match="truncated or damaged"):
        read_frame(bytes(data))
