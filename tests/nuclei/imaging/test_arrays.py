"""Planes and channels of arrays: one rule for frames, the client and the service."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nuclei.client.acquisition import StreamFrame
from nuclei.client.messages import write_frame
from nuclei.errors import ChoiceRequired, InvalidImage, InvalidOption, NucleiError
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.images import frame_from_array
from nuclei.imaging.selection import Selection
from nuclei.v1 import segmentation_pb2 as pb

RANDOM = np.random.default_rng(2)
HEIGHT, WIDTH = 20, 30


def image(*shape: int) -> NDArray[np.uint8]:
    return RANDOM.integers(0, 255, shape, np.uint8)


MANY = image(HEIGHT, WIDTH, 7)
STACK = image(6, HEIGHT, WIDTH)
CHANNELS_FIRST = np.ascontiguousarray(np.moveaxis(MANY, -1, 0))

CHOSEN: dict[str, tuple[NDArray[Any], Selection, NDArray[Any]]] = {
    "channel of [H, W, C]": (MANY, Selection(channel=5), MANY[:, :, 5]),
    "channel of [C, H, W]": (CHANNELS_FIRST, Selection(channel=5), MANY[:, :, 5]),
    "channel of two": (MANY[:, :, :2], Selection(channel=1), MANY[:, :, 1]),
    "channel of two, first": (CHANNELS_FIRST[:2], Selection(channel=1), MANY[:, :, 1]),
    "channel as text": (MANY, Selection(channel="6"), MANY[:, :, 6]),
    "colour by name": (MANY[:, :, :3], Selection(channel="Green"), MANY[:, :, 1]),
    "colour by name, first": (CHANNELS_FIRST[:3], Selection(channel="blue"), MANY[:, :, 2]),
    "only channel": (MANY[:, :, 0], Selection(channel=0), MANY[:, :, 0]),
    "plane": (STACK, Selection(plane=4), STACK[4]),
    "only plane": (STACK[0], Selection(plane=0), STACK[0]),
    "only plane of colours": (MANY[:, :, :1], Selection(plane=0), MANY[:, :, 0]),
    "projection": (STACK, Selection(project="max"), STACK.max(axis=0)),
    "channel of a plane": (
        np.stack([MANY, 255 - MANY]),
        Selection(channel=3, plane=1),
        255 - MANY[:, :, 3],
    ),
    "channel of a plane, first": (
        np.stack([CHANNELS_FIRST, 255 - CHANNELS_FIRST]),
        Selection(channel=3, plane=1),
        255 - MANY[:, :, 3],
    ),
    "stack of one": (MANY[None, :, :, 0, None], Selection(), MANY[:, :, 0]),
}


@pytest.mark.parametrize("case", CHOSEN)
def test_what_is_chosen_is_read(case: str) -> None:
    pixels, selection, expected = CHOSEN[case]
    frame = frame_from_array(pixels, FrameOptions(selection))
    np.testing.assert_array_equal(frame.pixels[:, :, 0], expected)
    assert frame.pixels.shape == (HEIGHT, WIDTH, 1)
    assert bool(frame.warnings) == (selection.channel is not None)


REFUSED: dict[str, tuple[NDArray[Any], Selection, type[NucleiError], str]] = {
    "many channels": (MANY, Selection(), ChoiceRequired, r"7 channels .*`channel`"),
    "two channels": (MANY[:, :, :2], Selection(), ChoiceRequired, r"2 channels .*`channel`"),
    "many channels, first": (CHANNELS_FIRST, Selection(), ChoiceRequired, r"7 channels"),
    "no such channel": (MANY, Selection(channel=7), InvalidOption, "no channel is 7"),
    "no such name": (MANY, Selection(channel="DAPI"), InvalidOption, "'DAPI'"),
    "no such colour": (MANY[:, :, :3], Selection(channel="cyan"), InvalidOption, "'red'"),
    "no such plane": (STACK, Selection(plane=6), InvalidOption, "no plane 6"),
    "plane of one": (STACK[0], Selection(plane=1), InvalidOption, "no plane 1"),
    "stack of colours": (np.stack([MANY] * 2), Selection(), ChoiceRequired, "`plane`"),
    "five axes": (np.zeros((1, 1, 4, 4, 1), np.uint8), Selection(), InvalidImage, "pick one plane"),
    "too many channels": (image(300, 300, 290), Selection(), InvalidImage, "at most 256"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_ambiguous_or_absent_is_refused_with_what_to_do(case: str) -> None:
    pixels, selection, kind, said = REFUSED[case]
    with pytest.raises(kind, match=said) as refused:
        frame_from_array(pixels, FrameOptions(selection))
    assert type(refused.value) is kind


@pytest.mark.parametrize("shape", [(2, 500, 3), (1, 5, 3), (500, 2, 3), (3, 3, 3), (4, 7, 4)])
def test_a_short_last_axis_holds_channels(shape: tuple[int, ...]) -> None:
    pixels = np.full(shape, 9, np.uint8)
    assert frame_from_array(pixels).pixels.shape[:2] == shape[:2]


def test_a_fourth_channel_that_holds_something_is_said_to_be_left_out() -> None:
    assert "fourth channel" in " ".join(frame_from_array(MANY[:, :, :4]).warnings)
    opaque = np.dstack([MANY[:, :, :3], np.full((HEIGHT, WIDTH), 255, np.uint8)])
    assert frame_from_array(opaque).warnings == ()
    chosen = frame_from_array(MANY[:, :, :4], FrameOptions(Selection(channel=3)))
    assert "fourth channel" not in " ".join(chosen.warnings)


@pytest.mark.parametrize("count", [3, 4])
def test_a_first_axis_that_is_taken_for_colours_is_said(count: int) -> None:
    said = "first axis was taken for red, green and blue"
    pixels = CHANNELS_FIRST[:count]
    assert said in " ".join(frame_from_array(pixels).warnings)
    sent = write_frame(pb.SegmentRequest(), StreamFrame(pixels), FrameOptions())
    assert said in " ".join(sent)
    for last in (MANY[:, :, :count], CHANNELS_FIRST[:1]):
        assert said not in " ".join(frame_from_array(last).warnings)
    chosen = FrameOptions(Selection(channel=0))
    assert said not in " ".join(frame_from_array(pixels, chosen).warnings)


def test_a_projection_that_is_no_text_is_refused() -> None:
    projection: Any = np.zeros(0)
    with pytest.raises(InvalidOption, match="the projection known is 'max'"):
        Selection(project=projection)
