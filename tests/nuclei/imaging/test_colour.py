from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from nuclei.errors import ChoiceRequired
from nuclei.imaging.colour import one_image
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.images import frame_from_array, read_frame
from nuclei.imaging.selection import Selection
from tests.nuclei.imaging.tints import TINTS, tinted

EXAMPLES = Path(__file__).parents[3] / "examples"
FLUORESCENCE, BRIGHTFIELD = (
    read_frame(EXAMPLES / name).pixels for name in ("fluorescence.png", "brightfield.png")
)


def as_jpeg(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    file = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    return np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR)[:, :, ::-1], np.uint8)


@pytest.mark.parametrize("tint", TINTS)
@pytest.mark.parametrize("grey", [FLUORESCENCE, BRIGHTFIELD], ids=["fluorescence", "brightfield"])
def test_one_channel_in_a_colour_is_that_channel(tint: str, grey: NDArray[np.uint8]) -> None:
    frame = frame_from_array(tinted(grey, TINTS[tint]))
    assert (frame.pixels == grey).all()
    (warning,) = frame.warnings
    assert "shown in a colour" in warning


@pytest.mark.parametrize("tint", TINTS)
def test_one_channel_in_a_colour_saved_as_jpeg_is_that_channel(tint: str) -> None:
    found, _ = one_image(as_jpeg(tinted(FLUORESCENCE, TINTS[tint])))
    assert found.shape[2] == 1
    assert np.abs(found.astype(int) - FLUORESCENCE).mean() < 6


@pytest.mark.parametrize("name", ["histology.png", "histology_2.png"])
def test_stained_tissue_keeps_its_colours(name: str) -> None:
    frame = read_frame(EXAMPLES / name)
    assert frame.pixels.shape[2] == 3
    assert not frame.warnings


@pytest.mark.parametrize("grey", [FLUORESCENCE, BRIGHTFIELD])
def test_equal_channels_are_one_without_a_word(grey: NDArray[np.uint8]) -> None:
    found, warnings = one_image(grey.repeat(3, axis=2))
    np.testing.assert_array_equal(found, grey)
    assert not warnings


def composite(channels: int) -> NDArray[np.uint8]:
    """The same nuclei in other places in each channel."""
    pixels = np.zeros((*FLUORESCENCE.shape[:2], 3), np.uint8)
    for number in range(channels):
        pixels[:, :, 2 - number] = np.rot90(FLUORESCENCE[:, :, 0], number)
    return pixels


@pytest.mark.parametrize("channels", [2, 3])
def test_of_several_channels_of_fluorescence_one_must_be_chosen(channels: int) -> None:
    pixels = composite(channels)
    with pytest.raises(ChoiceRequired, match=r"several channels.*`channel`"):
        frame_from_array(pixels)
    for channel in ("blue", 2):
        frame = frame_from_array(pixels, FrameOptions(Selection(channel)))
        assert (frame.pixels == FLUORESCENCE).all()
        assert any("channel" in warning for warning in frame.warnings)


def test_a_scale_bar_is_no_channel_but_is_said() -> None:
    pixels = tinted(FLUORESCENCE, TINTS["blue"])
    pixels[-20:-14, 20:80] = 255
    found, (warning,) = one_image(pixels)
    assert (found[:-20] == FLUORESCENCE[:-20]).all()
    assert "other colours was left out" in warning


def test_a_lookup_table_becomes_grey_and_is_said() -> None:
    grey = cv2.normalize(FLUORESCENCE, None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    hot = cv2.applyColorMap(grey, cv2.COLORMAP_HOT)[:, :, ::-1]
    found, (warning,) = one_image(hot)
    assert found.shape[2] == 1
    assert "lookup table" in warning
    assert np.corrcoef(found.reshape(-1), FLUORESCENCE.reshape(-1))[0, 1] > 0.98


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_frame_is_read(value: int) -> None:
    pixels = np.full((5, 6, 3), value, np.uint16)
    assert (one_image(pixels)[0] == pixels).all()


def test_colours_without_a_majority_are_several_channels() -> None:
    pixels = np.zeros((30, 40, 3), np.uint8)
    for channel in range(3):
        pixels[10 * channel : 10 * channel + 3, :, channel] = 200
    with pytest.raises(ChoiceRequired, match="several channels"):
        one_image(pixels)
