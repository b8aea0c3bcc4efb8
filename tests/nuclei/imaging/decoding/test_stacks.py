"""Chosen planes and channels of files that hold several."""

import io
import struct
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from nuclei.errors import ChoiceRequired, InvalidImage, InvalidOption
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.images import probe_frame, read_frame
from nuclei.imaging.selection import Selection
from tests.nuclei.imaging.decoding.files import GREY16, RGB8, RGB16, STACK, pillow, tiff

NAMES = ("DAPI", "FITC", "Cy5")
OME = {"axes": "ZCYX", "Channel": {"Name": list(NAMES)}}
IMAGEJ = {
    "axes": "ZCYX",
    "Labels": [f"c:{i % 3 + 1}/3 z:{i // 3 + 1}/5 - {NAMES[i % 3]}" for i in range(15)],
}
FILES: dict[str, bytes] = {
    "ome": tiff(STACK, ome=True, photometric="minisblack", metadata=OME),
    "ome lzw": tiff(STACK, ome=True, photometric="minisblack", metadata=OME, compression="lzw"),
    "imagej": tiff(STACK, imagej=True, metadata=IMAGEJ),
    "imagej big-endian": tiff(STACK, imagej=True, metadata=IMAGEJ, byteorder=">"),
    "imagej of pages": tiff(STACK, imagej=True, metadata=IMAGEJ, compression="zlib"),
}
UNNAMED: dict[str, bytes] = {
    "shaped": tiff(STACK, photometric="minisblack", metadata={"axes": "ZCYX"}),
    "shaped, one directory": tiff(
        STACK, photometric="minisblack", metadata={"axes": "ZCYX"}, contiguous=True
    ),
}


def read(data: bytes, **selection: Any) -> NDArray[Any]:
    header = probe_frame(data, selection=Selection(**selection))
    pixels = read_frame(data, options=FrameOptions(Selection(**selection))).pixels
    assert (header.height, header.width, header.channels) == pixels.shape
    return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("channel", [1, "FITC", "fitc", "1"])
def test_a_plane_of_a_channel(file: str, channel: int | str) -> None:
    selection = Selection(channel, plane=4)
    frame = read_frame(FILES[file], options=FrameOptions(selection))
    np.testing.assert_array_equal(frame.pixels[:, :, 0], STACK[4, 1])
    assert frame.warnings == ("channel 1 'FITC' of 3 was segmented, as `channel` says",)


@pytest.mark.parametrize("file", [*FILES, *UNNAMED])
def test_the_maximum_over_the_planes_of_a_channel(file: str) -> None:
    data = (FILES | UNNAMED)[file]
    np.testing.assert_array_equal(read(data, channel=2, project="max"), STACK[:, 2].max(axis=0))


@pytest.mark.parametrize("file", FILES)
def test_without_a_choice_the_error_lists_what_there_is(file: str) -> None:
    for use in (read_frame, probe_frame):
        with pytest.raises(ChoiceRequired, match="0 'DAPI', 1 'FITC', 2 'Cy5'") as refused:
            use(FILES[file])
        assert "5 focal planes" in str(refused.value)
        assert "choose one with `channel`" in str(refused.value)
        assert "`plane` (0 to 4)" in str(refused.value)
        assert "`project`" in str(refused.value)


def test_of_one_channel_no_other_can_be_chosen() -> None:
    data = tiff(GREY16, photometric="minisblack")
    with pytest.raises(
        InvalidOption, match="one channel, and no channel is 7: leave `channel` out"
    ):
        read_frame(data, options=FrameOptions(Selection(channel=7)))


@pytest.mark.parametrize("file", FILES)
def test_half_a_choice_is_not_enough(file: str) -> None:
    with pytest.raises(InvalidImage, match="plane"):
        read_frame(FILES[file], options=FrameOptions(Selection(channel=0)))
    with pytest.raises(InvalidImage, match="channel"):
        read_frame(FILES[file], options=FrameOptions(Selection(plane=0)))


@pytest.mark.parametrize(
    ("selection", "reason"),
    [
        ({"channel": 3, "plane": 0}, "no channel is 3"),
        ({"channel": "GFP", "plane": 0}, "no channel is 'GFP'"),
        ({"channel": 0, "plane": 5}, "plane is 5"),
    ],
)
def test_a_choice_that_the_file_does_not_have(selection: dict[str, Any], reason: str) -> None:
    for data in FILES.values():
        with pytest.raises(InvalidOption, match=reason):
            read_frame(data, options=FrameOptions(Selection(**selection)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"channel": -1},
        {"channel": ""},
        {"plane": -1},
        {"project": "mean"},
        {"plane": 0, "project": "max"},
    ],
)
def test_an_impossible_choice(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        Selection(**wrong)


def test_pages_without_metadata_are_counted_as_stored() -> None:
    data = tiff(STACK[:, 0], photometric="minisblack", metadata=None)
    np.testing.assert_array_equal(read(data, plane=3), STACK[3, 0])
    np.testing.assert_array_equal(read(data, project="max"), STACK[:, 0].max(axis=0))
    with pytest.raises(InvalidImage, match="5 pages"):
        read_frame(data)


def test_pages_of_different_size_can_be_chosen_and_not_projected() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(GREY16[:20], metadata=None)
        writer.write(GREY16, metadata=None)
    np.testing.assert_array_equal(read(file.getvalue(), plane=1), GREY16)
    with pytest.raises(InvalidImage, match="differ"):
        read_frame(file.getvalue(), options=FrameOptions(Selection(project="max")))


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_channels_that_are_samples_of_a_pixel(planar: str) -> None:
    channels = STACK[:, 0] if planar == "separate" else np.moveaxis(STACK[:, 0], 0, -1)
    data = tiff(channels, photometric="minisblack", planarconfig=planar, compression="lzw")
    np.testing.assert_array_equal(read(data, channel=4), STACK[4, 0])
    with pytest.raises(ChoiceRequired, match=r"5 channels.*`channel`"):
        read_frame(data)


@pytest.mark.parametrize(
    "data", [tiff(RGB8, photometric="rgb"), pillow(RGB8, "PNG")], ids=["tiff", "png"]
)
def test_one_colour_of_an_rgb_image(data: bytes) -> None:
    for number, name in enumerate(("red", "green", "blue")):
        np.testing.assert_array_equal(read(data, channel=name), RGB8[:, :, number])
        np.testing.assert_array_equal(read(data, channel=number, plane=0), RGB8[:, :, number])
    with pytest.raises(InvalidOption, match="3 channels"):
        read_frame(data, options=FrameOptions(Selection(channel=3)))
    with pytest.raises(InvalidOption, match="one plane"):
        read_frame(data, options=FrameOptions(Selection(plane=1)))


def test_planes_in_colour() -> None:
    data = tiff(np.stack([RGB16] * 2), photometric="rgb")
    np.testing.assert_array_equal(read(data, plane=1), RGB16)
    np.testing.assert_array_equal(read(data, plane=1, channel="green"), RGB16[:, :, 1])


def test_the_only_channel_may_be_named() -> None:
    metadata = {"axes": "YX", "Channel": {"Name": "DAPI"}}
    plane = tiff(GREY16, ome=True, metadata=metadata)
    stack = tiff(STACK[:, 0], ome=True, metadata={**metadata, "axes": "ZYX"})
    for channel in ("dapi", 0):
        np.testing.assert_array_equal(read(plane, channel=channel), GREY16)
        np.testing.assert_array_equal(read(stack, channel=channel, plane=1), STACK[1, 0])
    with pytest.raises(InvalidOption, match="one channel"):
        read_frame(plane, options=FrameOptions(Selection(channel="GFP")))


def test_channels_in_colour() -> None:
    channels = np.stack([RGB16, RGB16 // 2])
    data = tiff(channels, photometric="rgb", metadata={"axes": "CYXS"})
    np.testing.assert_array_equal(read(data, channel=1), RGB16 // 2)


def test_the_only_plane_may_be_named() -> None:
    np.testing.assert_array_equal(read(tiff(GREY16), channel=0, plane=0), GREY16)
    np.testing.assert_array_equal(read(tiff(GREY16), project="max"), GREY16)


def metamorph_stack() -> bytes:
    """An STK file: one directory, whose UIC2 tag counts the planes that follow one another."""
    planes = STACK[:, 0]
    tags = [(33628, "I", 8, (0,) * 8, True), (33629, "I", 30, (1,) * 30, True)]
    data = bytearray(tiff(planes[0], metadata=None, extratags=tags) + planes[1:].tobytes())
    uic1, uic2 = (
        tifffile.TiffFile(io.BytesIO(data)).pages[0].aspage().tags[code] for code in (33628, 33629)
    )
    # Types and counts are MetaMorph's own: of four entries, and of five planes.
    struct.pack_into("<HI", data, uic1.offset + 2, 4, 4)
    struct.pack_into("<HI", data, uic2.offset + 2, 5, 5)
    end = len(data)
    entries = (3, 1, 4, end, 5, end + 8, 6, end + 16)
    struct.pack_into("<8I", data, uic1.valueoffset, *entries)
    return bytes(data) + struct.pack("<5I", 1, 2, 1, 4, 3) + b"um\0"


def test_metamorph_stacks() -> None:
    data = metamorph_stack()
    np.testing.assert_array_equal(read(data, plane=4), STACK[4, 0])
    np.testing.assert_array_equal(read(data, project="max"), STACK[:, 0].max(axis=0))
    with pytest.raises(InvalidImage, match="5 pages"):
        read_frame(data)
    frame = read_frame(data, options=FrameOptions(Selection(plane=0)))
    assert frame.pixel_size_um == (0.25, 0.5)
    assert frame.warnings == ()


def test_micro_manager_writes_channels_before_slices() -> None:
    description = "ImageJ=1.52p\nimages=15\nchannels=3\nslices=5\nhyperstack=true\norder=zct\n"
    planes = np.moveaxis(STACK, 0, 1).reshape(15, 40, 50)
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for number, plane in enumerate(planes):
            text = description if number == 0 else None
            writer.write(plane, metadata=None, description=text)
    np.testing.assert_array_equal(read(file.getvalue(), channel=2, plane=1), STACK[1, 2])


def test_metadata_that_do_not_fit_are_left_aside_with_a_word() -> None:
    description = "ImageJ=1.52p\nimages=900\nchannels=3\nslices=300\nhyperstack=true\n"
    data = tiff(STACK[:, 0], photometric="minisblack", metadata=None, description=description)
    frame = read_frame(data, options=FrameOptions(Selection(plane=2)))
    np.testing.assert_array_equal(frame.pixels[:, :, 0], STACK[2, 0])
    assert any("do not fit" in warning for warning in frame.warnings)


def test_a_stack_that_lacks_its_end_is_read_only_where_a_plane_is_chosen() -> None:
    """Of one plane that is left nothing says whether it was one of many."""
    whole = tiff(np.stack([GREY16, GREY16 // 2, GREY16]), photometric="minisblack")
    cut = whole[: len(whole) * 2 // 3]
    with pytest.raises(InvalidImage, match=r"truncated .*the one after 1\)"):
        read_frame(cut)
    with pytest.raises(InvalidImage, match=r"truncated .*the one after 1\)"):
        read_frame(cut, options=FrameOptions(Selection(project="max")))
    frame = read_frame(cut, options=FrameOptions(Selection(plane=0)))
    np.testing.assert_array_equal(frame.pixels[:, :, 0], GREY16)
    assert any("may be truncated" in each for each in frame.warnings)
