"""What clients write into messages is what the gateway reads from them."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tifffile

from nuclei.client.acquisition import FrameLike, StreamFrame
from nuclei.client.messages import request_with, write_frame
from nuclei.errors import InvalidImage, InvalidOption
from nuclei.imaging.frame_options import AS_IT_IS, FrameOptions
from nuclei.imaging.images import Frame, FrameLimits, frame_from_array, read_frame
from nuclei.imaging.intensity import intensity_of
from nuclei.imaging.selection import Selection
from nuclei.v1 import segmentation_pb2 as pb
from serving.gateway.grpc_messages import FrameRequest
from serving.gateway.http_options import HttpOptions

LIMITS = FrameLimits()
# Channels whose names are numbers, of others.
CHANNELS = np.stack([np.full((16, 16), 100 * number, np.uint16) for number in range(3)])
NAMED = {"axes": "CYX", "Channel": {"Name": ["1", "2", "DAPI"]}}
COUNTS = np.random.default_rng(3).normal(1000, 30, (128, 128)).clip(0).astype(np.uint16)
COUNTS[:9, ::9] = 60000


def file_of_channels() -> bytes:
    data = io.BytesIO()
    tifffile.imwrite(data, CHANNELS, ome=True, photometric="minisblack", metadata=NAMED)
    return data.getvalue()


def sent(frame: FrameLike, options: FrameOptions = AS_IT_IS) -> FrameRequest:
    """What the gateway makes of what the client makes of a frame."""
    message = request_with("", None, False, ())
    write_frame(message, StreamFrame(frame), options)
    return FrameRequest(pb.SegmentRequest.FromString(message.SerializeToString()))


@pytest.mark.parametrize(
    ("channel", "value"),
    [(0, 0), (1, 100), (2, 200), ("1", 0), ("2", 100), ("0", 0), ("dapi", 200)],
)
def test_a_number_is_a_number_and_a_text_first_a_name(channel: int | str, value: int) -> None:
    data = file_of_channels()
    asked = FrameOptions(Selection(channel))
    read = [asked, sent(data, asked).frame_options()]
    if isinstance(channel, str):
        read.append(FrameOptions.of_text(channel=channel))
        read.append(HttpOptions.of([("channel", channel)], [], {}).frame)
    for options in read:
        assert np.unique(read_frame(data, options=options).pixels) == [value]


@pytest.mark.parametrize("number", [2**32, -1])
def test_numbers_that_no_channel_has_are_refused(number: int) -> None:
    with pytest.raises(InvalidOption, match="channel"):
        sent(b"image", FrameOptions(Selection(number)))


@pytest.mark.parametrize(
    "options",
    [
        AS_IT_IS,
        FrameOptions(intensity_range=(-0.2, 0.3)),
        FrameOptions(intensity_percentiles=(2, 98)),
    ],
)
def test_the_gateway_speaks_in_the_values_of_a_frame_that_its_caller_has_scaled(
    options: FrameOptions,
) -> None:
    values = (COUNTS / 65535 - 0.25).astype(np.float32)
    here = frame_from_array(values, options)
    there = sent(here, options).read(LIMITS)
    assert there.scale == here.scale
    assert there.intensity_range == here.intensity_range
    assert intensity_of(there).warnings == intensity_of(here).warnings
    of_scaled = sent(replace(here, intensity_range=None), options).read(LIMITS)
    assert of_scaled.intensity_range == here.intensity_range


def scaled(offset: float, step: float, **changes: Any) -> FrameRequest:
    raw = pb.RawPixels(height=2, width=2, data=bytes(4), pixel_type=pb.PIXEL_TYPE_UINT8)
    raw.scale.offset, raw.scale.step = offset, step
    return FrameRequest(pb.SegmentRequest(frame=pb.Frame(raw=raw, **changes)))


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan")])
def test_a_scale_without_a_step_is_refused(step: float) -> None:
    with pytest.raises(InvalidOption, match="step"):
        scaled(0, step).read(LIMITS)


@pytest.mark.parametrize(("offset", "step"), [(1e300, 1), (0, 1e300), (float("nan"), 1)])
def test_a_scale_of_values_that_float32_does_not_hold_is_refused(
    offset: float, step: float
) -> None:
    with pytest.raises(InvalidImage, match="divide them"):
        scaled(offset, step).read(LIMITS)


def test_pixels_without_a_scale_are_the_values() -> None:
    frame: Frame = sent(COUNTS).read(LIMITS)
    assert frame.scale.value(3.0) == 3.0
    np.testing.assert_array_equal(frame.pixels[:, :, 0], COUNTS)
