import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from nuclei.errors import FrameTooLarge, InvalidData, InvalidImage, InvalidOption
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.images import (
    FrameLimits,
    frame_from_array,
    probe_frame,
    read_frame,
    read_labels,
)
from nuclei.results.coordinates import PixelSize
from tests.nuclei.imaging.decoding.files import GREY8, GREY16, RGB8, RGB16, chunk, pillow, tiff

EXAMPLES = Path(__file__).parents[3] / "examples"
RANDOM = np.random.default_rng(7)


def png(pixels: NDArray[Any]) -> bytes:
    stored = pixels if pixels.ndim == 2 else pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]
    return cv2.imencode(".png", stored)[1].tobytes()


def png_header(width: int, height: int) -> bytes:
    """A well-formed PNG that declares a size and holds 1000 bytes."""

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff_bomb(inflated_bytes: int) -> bytes:
    """A deflated TIFF of 16 x 16 pixels whose only strip inflates to far more."""
    data = bytearray(tiff(np.zeros((16, 16), np.uint8), compression="zlib"))
    tags = tifffile.TiffFile(io.BytesIO(data)).pages[0].aspage().tags
    bomb = zlib.compress(bytes(inflated_bytes))
    data[slice(*_value(tags["StripOffsets"]))] = struct.pack("<I", len(data))
    data[slice(*_value(tags["StripByteCounts"]))] = struct.pack("<I", len(bomb))
    return bytes(data) + bomb


def tiff_circle() -> bytes:
    """A TIFF whose second page names itself as the next one."""
    data = bytearray(tiff(np.stack([GREY8] * 2), photometric="minisblack"))
    second = tifffile.TiffFile(io.BytesIO(data)).pages[1].aspage()
    next_page = second.offset + 2 + 12 * len(second.tags)
    data[next_page : next_page + 4] = struct.pack("<I", second.offset)
    return bytes(data)


def indexed(indices: np.ndarray, palette: np.ndarray) -> bytes:
    """A PNG of indices uint8 into a palette uint16 [3, 256]."""
    image = Image.fromarray(indices).convert("P")
    image.putpalette((palette >> 8).T.astype(np.uint8).tobytes())
    return pillow(image, "PNG")


def _value(tag: tifffile.TiffTag) -> tuple[int, int]:
    return tag.valueoffset, tag.valueoffset + 4


PALETTE = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 9)]).astype(np.uint16) << 8
PALETTE_RGB = np.stack([GREY8, 255 - GREY8, np.full_like(GREY8, 9)], axis=2)
MASK = GREY8 > 127

READABLE: dict[str, tuple[bytes, np.ndarray]] = {
    "png grey 8": (png(GREY8), GREY8),
    "png grey 16": (png(GREY16), GREY16),
    "png rgb 8": (png(RGB8), RGB8),
    "png rgb 16": (png(RGB16), RGB16),
    "png rgba 8": (png(np.dstack([RGB8, GREY8])), RGB8),
    "png rgba 16": (png(np.dstack([RGB16, GREY16])), RGB16),
    "png palette": (indexed(GREY8, PALETTE), PALETTE_RGB),
    "png 1 bit": (pillow(Image.fromarray(MASK), "PNG"), MASK.astype(np.uint8) * 255),
    "tiff grey 8": (tiff(GREY8), GREY8),
    "tiff grey 16": (tiff(GREY16), GREY16),
    "tiff rgb 16": (tiff(RGB16, photometric="rgb"), RGB16),
    "tiff rgba 8": (tiff(np.dstack([RGB8, GREY8]), photometric="rgb"), RGB8),
    "tiff grey with alpha": (
        tiff(
            np.dstack([GREY8, GREY8 // 2]),
            photometric="minisblack",
            planarconfig="contig",
            extrasamples=["unassalpha"],
        ),
        GREY8,
    ),
    "tiff big-endian": (tiff(GREY16, byteorder=">"), GREY16),
    "tiff planar": (
        tiff(np.moveaxis(RGB16, 2, 0), photometric="rgb", planarconfig="separate"),
        RGB16,
    ),
    "tiff planar deflate": (
        tiff(
            np.moveaxis(RGB16, 2, 0),
            photometric="rgb",
            planarconfig="separate",
            compression="zlib",
        ),
        RGB16,
    ),
    "tiff one channel and axis": (tiff(GREY16[:, :, None], photometric="minisblack"), GREY16),
    "tiff deflate tiles": (tiff(GREY16, compression="zlib", tile=(16, 16)), GREY16),
    "tiff lzw 16": (pillow(GREY16, "TIFF", compression="tiff_lzw"), GREY16),
    "tiff lzw rgb": (pillow(RGB8, "TIFF", compression="tiff_lzw"), RGB8),
    "tiff group 4": (
        pillow(Image.fromarray(MASK), "TIFF", compression="group4"),
        MASK.astype(np.uint8) * 255,
    ),
    "tiff white is zero": (tiff(255 - GREY8, photometric="miniswhite"), GREY8),
    "tiff 1 bit": (tiff(MASK, photometric="minisblack"), MASK.astype(np.uint8) * 255),
    "tiff palette": (tiff(GREY8, photometric="palette", colormap=PALETTE), PALETTE_RGB),
    "bigtiff": (tiff(GREY16, bigtiff=True), GREY16),
    "ome-tiff": (tiff(GREY16, ome=True, metadata={"axes": "YX"}), GREY16),
    "imagej tiff": (tiff(GREY16, imagej=True), GREY16),
}


@pytest.mark.parametrize("case", READABLE)
def test_reads_every_form_exactly(case: str) -> None:
    data, expected = READABLE[case]
    pixels = read_frame(data).pixels
    assert pixels.dtype == expected.dtype
    assert pixels.dtype.isnative
    np.testing.assert_array_equal(pixels, expected.reshape(pixels.shape))
    assert pixels.shape == (40, 50, 1 if expected.ndim == 2 else 3)


def test_reads_jpeg_within_its_loss() -> None:
    smooth = cv2.GaussianBlur(RGB8, (0, 0), 8)
    pixels = read_frame(pillow(smooth, "JPEG", quality=98)).pixels
    assert np.abs(pixels.astype(int) - smooth).max() < 12


def test_jpeg_in_cmyk_becomes_rgb() -> None:
    data = pillow(Image.fromarray(RGB8).convert("CMYK"), "JPEG")
    assert read_frame(data).pixels.shape == (40, 50, 3)


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("fluorescence.png", (360, 360, 1), np.uint8),
        ("fluorescence_16bit.tif", (520, 696, 1), np.uint16),
        ("histology.png", (256, 320, 3), np.uint8),
        ("histology_2.png", (256, 320, 3), np.uint8),
        ("brightfield.png", (1024, 1024, 1), np.uint8),
    ],
)
def test_reads_the_examples(name: str, shape: tuple[int, ...], dtype: type) -> None:
    frame = read_frame(EXAMPLES / name)
    assert frame.pixels.shape == shape
    assert frame.pixels.dtype == dtype


def ome(**metadata: Any) -> bytes:
    return tiff(GREY16, ome=True, metadata={"axes": "YX", **metadata})


PIXEL_SIZES = {
    "ome um": (
        ome(
            PhysicalSizeX=0.325,
            PhysicalSizeXUnit="µm",
            PhysicalSizeY=0.65,
            PhysicalSizeYUnit="µm",
        ),
        (0.65, 0.325),
    ),
    "ome nm": (
        ome(
            PhysicalSizeX=325.0,
            PhysicalSizeXUnit="nm",
            PhysicalSizeY=650.0,
            PhysicalSizeYUnit="nm",
        ),
        (0.65, 0.325),
    ),
    "ome without unit": (ome(PhysicalSizeX=0.5, PhysicalSizeY=0.25), (0.25, 0.5)),
    "ome in pixels": (
        ome(
            PhysicalSizeX=1.0,
            PhysicalSizeXUnit="pixel",
            PhysicalSizeY=1.0,
            PhysicalSizeYUnit="pixel",
        ),
        None,
    ),
    "ome without size": (ome(), None),
    "ome with one size": (ome(PhysicalSizeX=0.5), None),
    "imagej um": (
        tiff(GREY16, imagej=True, resolution=(1 / 0.325, 1 / 0.65), metadata={"unit": "um"}),
        (0.65, 0.325),
    ),
    "imagej escaped um": (
        tiff(GREY16, imagej=True, resolution=(4.0, 2.0), metadata={"unit": "\\u00B5m"}),
        (0.5, 0.25),
    ),
    "imagej nm": (
        tiff(GREY16, imagej=True, resolution=(0.004, 0.002), metadata={"unit": "nm"}),
        (0.5, 0.25),
    ),
    "imagej without unit": (tiff(GREY16, imagej=True), None),
    "pixels per centimetre": (
        tiff(GREY16, resolution=(40000.0, 20000.0), resolutionunit="CENTIMETER"),
        (0.5, 0.25),
    ),
    "72 dpi is a print resolution": (
        tiff(GREY16, resolution=(72.0, 72.0), resolutionunit="INCH"),
        None,
    ),
    "no resolution": (tiff(GREY16), None),
    "png": (png(GREY16), None),
}


@pytest.mark.parametrize("case", PIXEL_SIZES)
def test_pixel_size_in_micrometres(case: str) -> None:
    data, expected = PIXEL_SIZES[case]
    size = read_frame(data).pixel_size_um
    assert size == (None if expected is None else pytest.approx(expected, rel=1e-5))


PNG, JPEG, TIFF = png(RGB16), pillow(RGB8, "JPEG"), tiff(RGB16, compression="zlib")
BAD = {
    "empty": (b"", "empty"),
    "text named .png": (b"not an image at all", "not an image"),
    "png header only": (PNG[:20], "truncated"),
    "png cut in the middle": (PNG[: len(PNG) // 2], "truncated"),
    "png without its end": (PNG[:-12], "truncated"),
    "png cut by one byte": (PNG[:-1], "truncated"),
    "png with a flipped bit": (PNG[:3000] + bytes([PNG[3000] ^ 1]) + PNG[3001:], "checksum"),
    "png with too few pixels": (png_header(500, 500), "truncated or damaged"),
    "png without width": (png_header(0, 5), "at least 1 x 1"),
    "png without height": (png_header(5, 0), "at least 1 x 1"),
    "jpeg cut in the middle": (JPEG[: len(JPEG) // 2], "truncated"),
    "jpeg magic only": (b"\xff\xd8\xff" + bytes(50), "truncated or damaged"),
    "tiff magic only": (b"II*\x00" + bytes(50), "truncated or damaged"),
    "tiff cut in the middle": (TIFF[: len(TIFF) // 2], "truncated"),
    "tiff cut at the end": (TIFF[:-5], "truncated"),
    "tiff uncompressed, cut": (tiff(GREY16)[:-5], "truncated"),
    "tiff that inflates without end": (tiff_bomb(2**20), "do not give the pixels"),
    "tiff whose pages go round": (tiff_circle(), "circle"),
    "tiff lzw, cut": (pillow(RGB8, "TIFF", compression="tiff_lzw")[:-20], "truncated"),
    "tiff float": (tiff(np.full((5, 5), np.nan, np.float32)), "25 values of the image are NaN"),
    "tiff of five planes": (tiff(np.stack([GREY16] * 5), photometric="minisblack"), "5 pages"),
    "imagej stack": (
        tiff(np.stack([GREY16] * 5), imagej=True, metadata={"axes": "ZYX"}),
        "5 focal planes",
    ),
    "ome-tiff of channels": (
        tiff(np.stack([GREY16] * 3), ome=True, metadata={"axes": "CYX"}, photometric="minisblack"),
        "3 channels",
    ),
    "tiff of five channels": (
        tiff(np.dstack([GREY16] * 5), photometric="minisblack", planarconfig="contig"),
        "5 channels",
    ),
    "tiff of two channels": (
        tiff(np.dstack([GREY16] * 2), photometric="minisblack", planarconfig="contig"),
        "2 channels",
    ),
    "tiff of three channels": (
        tiff(RGB16, photometric="minisblack", planarconfig="contig"),
        "3 channels",
    ),
    "tiff cmyk": (pillow(Image.fromarray(RGB8).convert("CMYK"), "TIFF"), "save it as grey or RGB"),
    "tiff lab": (pillow(Image.fromarray(RGB8).convert("LAB"), "TIFF"), "save it as grey or RGB"),
}


def test_a_palette_of_greys_is_one_channel() -> None:
    pixels = read_frame(pillow(Image.fromarray(GREY8).convert("P"), "PNG")).pixels
    np.testing.assert_array_equal(pixels[..., 0], GREY8)
    assert pixels.shape[2] == 1


HEADERS = {**READABLE, "jpeg": (JPEG, RGB8), "jpeg grey": (pillow(GREY8, "JPEG"), GREY8)}


@pytest.mark.parametrize("case", HEADERS)
def test_the_header_gives_the_size_of_the_frame(case: str) -> None:
    header, pixels = probe_frame(HEADERS[case][0]), read_frame(HEADERS[case][0]).pixels
    stated = header.height, header.width, header.channels, header.itemsize
    assert stated == (*pixels.shape, pixels.itemsize)


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        (png_header(16_000, 16_000), (16_000, 16_000)),
        (JPEG, (40, 50)),
        (tiff_bomb(2**20), (16, 16)),
    ],
    ids=["png", "jpeg", "tiff"],
)
def test_probing_decompresses_nothing(data: bytes, shape: tuple[int, int]) -> None:
    header = probe_frame(data)
    assert (header.height, header.width) == shape


@pytest.mark.parametrize("case", BAD)
def test_refuses_bad_images(case: str) -> None:
    data, reason = BAD[case]
    with pytest.raises(InvalidImage, match=reason) as refused:
        read_frame(data)
    assert not isinstance(refused.value, FrameTooLarge)


def test_several_planes_are_refused_with_how_to_pick_one() -> None:
    with pytest.raises(InvalidImage, match=r"`plane` \(0 to 1\)"):
        read_frame(tiff(np.stack([GREY16] * 2), photometric="minisblack"))


@given(data=st.data(), whole=st.sampled_from([PNG, JPEG, TIFF, tiff(GREY16, byteorder=">")]))
def test_damage_gives_an_image_or_our_error(data: st.DataObject, whole: bytes) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        frame = read_frame(bytes(damaged))
    except InvalidImage:
        return
    assert frame.pixels.dtype in (np.uint8, np.uint16)
    assert frame.pixels.ndim == 3


@given(length=st.integers(0, len(TIFF) - 1))
def test_a_truncated_tiff_is_never_accepted(length: int) -> None:
    with pytest.raises(InvalidImage):
        read_frame(TIFF[:length])


@given(length=st.integers(0, len(PNG) - 1))
def test_a_truncated_png_is_never_accepted(length: int) -> None:
    with pytest.raises(InvalidImage):
        read_frame(PNG[:length])


@pytest.mark.parametrize(
    "data",
    [png_header(100_000, 100_000), png_header(20_000, 10), tiff(np.zeros((9, 20_000), np.uint8))],
    ids=["png bomb", "png side", "tiff side"],
)
def test_frames_over_the_limit_are_refused_on_their_header(data: bytes) -> None:
    for read in (probe_frame, read_frame):
        with pytest.raises(FrameTooLarge, match="crop"):
            read(data)


@pytest.mark.parametrize("data", [PNG, JPEG, TIFF], ids=["png", "jpeg", "tiff"])
@pytest.mark.parametrize(
    "limits",
    [FrameLimits(max_side_px=49), FrameLimits(max_pixels=1999), FrameLimits(max_bytes=500)],
    ids=["side", "pixels", "bytes"],
)
def test_limits_hold_for_every_form(data: bytes, limits: FrameLimits) -> None:
    for read in (probe_frame, read_frame):
        with pytest.raises(FrameTooLarge):
            read(data, limits)
    assert read_frame(data, FrameLimits(max_side_px=50, max_pixels=2000)).pixels.shape[:2] == (
        40,
        50,
    )


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "text.png"
    path.write_text("hello")
    with pytest.raises(InvalidImage, match=r"text\.png: not an image"):
        read_frame(path)
    with pytest.raises(InvalidImage, match=r"missing\.png: cannot be read: No such file"):
        read_frame(tmp_path / "missing.png")
    with pytest.raises(InvalidImage, match="not a file"):
        read_frame(tmp_path)
    with pytest.raises(FrameTooLarge, match=r"text\.png"):
        read_frame(path, FrameLimits(max_bytes=4))


@pytest.mark.parametrize(
    ("pixels", "channels"),
    [(GREY8, 1), (GREY8[:, :, None], 1), (RGB16, 3), (np.dstack([RGB8, GREY8]), 3)],
)
def test_frame_from_array(pixels: NDArray[Any], channels: int) -> None:
    frame = frame_from_array(pixels, FrameOptions(pixel_size_um=PixelSize(0.5, 0.25)))
    assert frame.pixels.shape == (40, 50, channels)
    assert frame.pixel_size_um == PixelSize(y=0.5, x=0.25)
    np.testing.assert_array_equal(frame.pixels, pixels.reshape(40, 50, -1)[:, :, :channels])


def test_frame_from_array_makes_bytes_native() -> None:
    frame = frame_from_array(GREY16.astype(">u2"))
    assert frame.pixels.dtype.isnative
    np.testing.assert_array_equal(frame.pixels[:, :, 0], GREY16)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.complex64),
        np.full((4, 4), np.inf),
        np.array([["a"]]),
        np.zeros(4, np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((3, 4, 4, 1), np.uint8),
        np.zeros((0, 4), np.uint8),
    ],
)
def test_frame_from_array_refuses(pixels: NDArray[Any]) -> None:
    with pytest.raises(InvalidImage):
        frame_from_array(pixels)


@pytest.mark.parametrize(
    "size",
    [(0.0, 1.0), (-1.0, 1.0), (float("nan"), 1), (1, float("inf")), (1, 1, 1)],
)
def test_impossible_pixel_sizes_are_refused(size: Any) -> None:
    with pytest.raises(InvalidOption, match="micrometres"):
        FrameOptions(pixel_size_um=size)


LABELS = RANDOM.integers(0, 60_000, (40, 50))
LABEL_IMAGES: dict[str, Callable[[], bytes]] = {
    "png 16": lambda: png(LABELS.astype(np.uint16)),
    "tiff 16": lambda: tiff(LABELS.astype(np.uint16)),
    "tiff 32": lambda: tiff(LABELS.astype(np.uint32), compression="zlib"),
    "tiff signed 32": lambda: tiff(LABELS.astype(np.int32)),
    "tiff 64": lambda: tiff(LABELS.astype(np.int64)),
    "float 32 that holds integers": lambda: tiff(LABELS.astype(np.float32)),
    "rgb of three equal channels": lambda: png(np.dstack([LABELS.astype(np.uint16)] * 3)),
    "rgba of three equal channels": lambda: png(
        np.dstack([LABELS.astype(np.uint16)] * 3 + [np.full(LABELS.shape, 9, np.uint16)])
    ),
}


@pytest.mark.parametrize("case", LABEL_IMAGES)
def test_read_labels(case: str) -> None:
    labels = read_labels(LABEL_IMAGES[case]())
    assert labels.dtype == np.uint32
    np.testing.assert_array_equal(labels, LABELS)


def palette_png(bits: int) -> bytes:
    image = Image.fromarray(GREY8 >> (8 - bits), "P")
    image.putpalette(list(RANDOM.integers(0, 256, 3 << bits)))
    return pillow(image, "PNG", bits=bits)


def test_read_labels_takes_the_indices_of_a_palette() -> None:
    data = tiff(GREY8, photometric="palette", colormap=PALETTE)
    np.testing.assert_array_equal(read_labels(data), GREY8)
    for bits in (1, 2, 4, 8):
        np.testing.assert_array_equal(read_labels(palette_png(bits)), GREY8 >> (8 - bits))


@pytest.mark.parametrize(
    "data",
    [pillow(GREY8, "JPEG"), tiff(GREY8, compression="jpeg")],
    ids=["jpeg", "tiff of jpeg"],
)
def test_read_labels_refuses_a_jpeg_by_name(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    path.write_bytes(data)
    with pytest.raises(InvalidData, match=r"mask\.png: labels are a JPEG"):
        read_labels(path)


@pytest.mark.parametrize(
    "data",
    [
        tiff(LABELS.astype(np.float32) + np.float32(0.25)),
        tiff(np.where(MASK, np.nan, 1).astype(np.float32)),
        tiff(np.where(MASK, np.inf, 1).astype(np.float32)),
        tiff(MASK, photometric="miniswhite"),
        tiff(-LABELS.astype(np.int32)),
        tiff(LABELS.astype(np.int64) << 30),
        png(RGB8),
    ],
    ids=["fractions", "nan", "infinity", "white as zero", "negative", "too large", "colours"],
)
def test_read_labels_refuses_what_are_no_labels(data: bytes) -> None:
    with pytest.raises(InvalidData, match="expected"):
        read_labels(data)


@pytest.mark.parametrize(
    "data", [tiff(MASK, photometric="minisblack"), pillow(Image.fromarray(MASK), "PNG")]
)
def test_read_labels_takes_masks_of_1_bit_as_0_and_1(data: bytes) -> None:
    np.testing.assert_array_equal(read_labels(data), MASK.astype(np.uint32))


def test_read_labels_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mask.tif"
    path.write_bytes(tiff(LABELS.astype(np.float32) / 2))
    with pytest.raises(InvalidData, match=r"mask\.tif: labels are float32"):
        read_labels(path)
