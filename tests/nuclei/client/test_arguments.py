"""Odd things as arguments of both clients: each is understood, or refused by an error of ours."""

import asyncio
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nuclei import errors
from nuclei.client import AsyncClient, Client, FrameIndex, Outcome, StagePosition, StreamFrame
from nuclei.client.arguments import frame_options, pixel_size
from nuclei.imaging.images import read_frame
from nuclei.results.segmentation import Segmentation

SMALL = np.random.default_rng(5).integers(0, 4000, (64, 64), np.uint16)


class Broken:
    """Raises what is in none of our trees, whatever it is asked for."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __float__(self) -> float:
        raise RuntimeError("no number")

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("no parts")


ODD = (
    *(None, True, -1, 0, 1.5, 2**33, 10**400, math.nan, math.inf, -math.inf, 1j),
    *("", "nosuch", "\0", "\ud800", "a\nb", b"", b"\xff", bytearray(b"x"), memoryview(b"text")),
    *([], [SMALL], [[1, 2], [3, 4]], (1, 2, 3), (0.5, "a"), (None, None), {}, {1: 2}, {"a"}),
    *(object(), object, Broken(), len, range(3), FrameIndex(), StagePosition(1, 2)),
    *(np.float32(0.5), np.int64(3), np.bool_(True), np.array(0.5), np.zeros(0), np.zeros((2, 2))),
    *(np.array("x"), np.array([object()]), np.zeros((4, 4), "c16"), np.zeros((2**33, 0), np.uint8)),
    *(np.datetime64("2020"), StreamFrame(SMALL), StreamFrame(Broken()), Path(os.devnull), Path()),
)
FRAME_OPTIONS = (
    *("frame", "index", "stage_position", "pixel_size_um", "pixel_to_stage", "request_id"),
    "timeout_s",
)
INDEX = ("acquisition_uid", "position", "t", "c", "z")
CALL_OPTIONS = (
    *("model", "tta", "outputs", "timeout_s", "channel", "plane", "project"),
    *("intensity_range", "intensity_percentiles", "threshold", "min_area_px", "diameter_px"),
)
odd = st.sampled_from(ODD)


def options(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """A few of the arguments, each with something odd."""
    return st.dictionaries(st.sampled_from(names), odd, min_size=1, max_size=2)


def odd_frames() -> st.SearchStrategy[Any]:
    place = st.builds(StagePosition, odd, odd, odd)
    index = options(*INDEX).map(lambda fields: FrameIndex(**fields))
    odd_options = options(*FRAME_OPTIONS)
    known = st.one_of(
        *(odd_options, index.map(lambda value: {"index": value})),
        place.map(lambda value: {"stage_position": value}),
    )
    return st.one_of(odd, known.map(lambda fields: StreamFrame(**{"frame": SMALL, **fields})))


quickly = settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


async def answer(client: AsyncClient, call: dict[str, Any]) -> Segmentation | errors.NucleiError:
    try:
        return await client.segment(**call)
    except errors.NucleiError as error:
        return error


async def outcomes(client: AsyncClient, frames: Any, **options: Any) -> list[Outcome]:
    return [outcome async for outcome in client.stream(frames, **options)]


@quickly
@given(call=options(*FRAME_OPTIONS, *CALL_OPTIONS))
def test_a_call_gives_a_result_or_an_error_of_ours(
    client: Client, gateway: Any, call: dict[str, Any]
) -> None:
    call = {"frame": SMALL, **call}
    blocking: Segmentation | errors.NucleiError
    try:
        blocking = client.segment(**call)
    except errors.NucleiError as error:
        blocking = error

    async def awaited() -> Segmentation | errors.NucleiError:
        async with AsyncClient(gateway.grpc_address) as async_client:
            return await answer(async_client, call)

    assert type(asyncio.run(awaited())) is type(blocking)


@quickly
@given(frames=st.lists(odd_frames(), min_size=1, max_size=4))
def test_a_stream_answers_every_frame_and_goes_on(
    client: Client, gateway: Any, frames: list[Any]
) -> None:
    frames = [SMALL, *frames, SMALL]

    async def awaited() -> list[Outcome]:
        async with AsyncClient(gateway.grpc_address) as async_client:
            return await outcomes(async_client, frames, outputs=[])

    for found in (list(client.stream(frames, outputs=[])), asyncio.run(awaited())):
        found.sort(key=lambda outcome: outcome.sequence)
        assert [outcome.sequence for outcome in found] == list(range(len(frames)))
        assert found[0].segmentation is not None
        assert found[-1].segmentation is not None
        assert all((one.segmentation is None) != (one.error is None) for one in found)


@given(call=options("overflow", "queue_size", *CALL_OPTIONS))
@quickly
def test_the_options_of_a_stream_are_checked_before_it_starts(call: dict[str, Any]) -> None:
    refused = (errors.InvalidOption, errors.EngineUnavailable)
    with Client("127.0.0.1:1") as client, pytest.raises(refused):
        list(client.stream([SMALL], **call))


@pytest.mark.parametrize("frames", [None, 5, SMALL.tobytes(), "folder", Path("x"), object()])
async def test_what_holds_no_frames_is_refused_at_once(frames: Any) -> None:
    with (
        Client("127.0.0.1:1") as client,
        pytest.raises(errors.InvalidOption, match="iterable of frames"),
    ):
        client.stream(frames)
    async with AsyncClient("127.0.0.1:1") as async_client:
        with pytest.raises(errors.InvalidOption, match="iterable of frames"):
            async_client.stream(frames)


REFUSED: dict[str, tuple[dict[str, Any], type[errors.NucleiError], str]] = {
    "nothing": ({"frame": None}, errors.InvalidImage, "the frame is None; expected the path"),
    "a list": ({"frame": [[1, 2], [3, 4]]}, errors.InvalidImage, "expected the path"),
    "a folder": ({"frame": "."}, errors.InvalidImage, "not a file"),
    "a device": ({"frame": os.devnull}, errors.InvalidImage, "not a file"),
    "a zero": ({"frame": "a\0b"}, errors.InvalidImage, "expected the path"),
    "2 GiB": (
        {"frame": np.broadcast_to(np.uint8(0), (2**16, 2**15))},
        errors.FrameTooLarge,
        "crop the frame",
    ),
    "no rows": (
        {"frame": np.zeros((2**33, 0), np.uint8)},
        errors.InvalidImage,
        "at least one of them",
    ),
    "index below 0": ({"index": FrameIndex(t=-1)}, errors.InvalidOption, "t is -1; expected a"),
    "large index": ({"index": FrameIndex(z=2**33)}, errors.InvalidOption, "z is 8589934592"),
    "index as numbers": ({"index": (0, 1)}, errors.InvalidOption, "expected a FrameIndex"),
    "place as numbers": ({"stage_position": (1, 2)}, errors.InvalidOption, "a StagePosition"),
    "place as text": (
        {"stage_position": StagePosition("1", 2)},
        errors.InvalidOption,
        "x_um is '1'; expected micrometres",
    ),
    "time": ({"timeout_s": math.nan}, errors.InvalidOption, "timeout_s is nan; expected seconds"),
    "no time": ({"timeout_s": 0}, errors.InvalidOption, "timeout_s is 0"),
    "three sizes": ({"pixel_size_um": (1, 2, 3)}, errors.InvalidOption, "one number, or the two"),
    "threshold": ({"threshold": "0.5"}, errors.InvalidOption, "threshold is '0.5'; expected a pro"),
    "area": ({"min_area_px": 1.5}, errors.InvalidOption, "min_area_px is 1.5; expected a whole"),
    "diameter": ({"diameter_px": 0}, errors.InvalidOption, "diameter is 0; expected what nuclei"),
    "output": ({"outputs": ["volume"]}, errors.InvalidOption, "some of centroids"),
    "request id": ({"request_id": 7}, errors.InvalidOption, "request_id is 7; expected at most"),
    "model": ({"model": None}, errors.InvalidOption, "model is None; expected a name"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refusals_name_the_argument_and_what_is_expected(name: str) -> None:
    arguments, expected, sentence = REFUSED[name]
    call = {"frame": SMALL, **arguments}
    with Client("127.0.0.1:1") as client, pytest.raises(errors.NucleiError) as blocking:
        client.segment(**call)
    async with AsyncClient("127.0.0.1:1") as async_client:
        with pytest.raises(errors.NucleiError) as awaited:
            await async_client.segment(**call)
    assert type(blocking.value) is type(awaited.value) is expected
    assert sentence in str(blocking.value)
    assert "\n" not in str(blocking.value)


@pytest.mark.parametrize("size", [0.5, np.float32(0.5), np.array(0.5), [0.5, 0.5], iter([0.5] * 2)])
def test_a_pixel_size_is_one_number_or_two(size: Any) -> None:
    assert pixel_size(size) == (0.5, 0.5)


@pytest.mark.parametrize("text", ["5", "12", b"12", bytearray(b"12")])
def test_text_is_no_numbers(text: Any) -> None:
    with pytest.raises(errors.InvalidOption, match="expected micrometres"):
        pixel_size(text)
    with pytest.raises(
        errors.InvalidOption, match=r"intensity_range is .*expected the two numbers"
    ):
        frame_options(None, None, None, text, None)


def test_what_is_sensible_works(client: Client, fluorescence: Path) -> None:
    expected = client.segment(fluorescence)
    pixels = read_frame(fluorescence).pixels
    data = fluorescence.read_bytes()
    for frame in (str(fluorescence), bytearray(data), memoryview(data), memoryview(pixels)):
        np.testing.assert_array_equal(client.segment(frame).labels, expected.labels)
    for size in (0.5, np.float32(0.5), [0.5, 0.5], np.array([0.5, 0.5])):
        found = client.segment(SMALL, pixel_size_um=size, outputs="centroids", timeout_s=math.inf)
        assert found.pixel_size_um == (0.5, 0.5)
        assert found.nuclei.centroid_px.shape == (len(found.nuclei), 2)


def test_outputs_are_those_of_every_frame_also_from_a_generator(client: Client) -> None:
    chosen: Any = iter(["labels"])
    found = list(client.stream([SMALL, SMALL], outputs=chosen))
    assert [one.segmentation.labels.shape for one in found] == [SMALL.shape] * 2


async def test_a_frame_that_cannot_be_sent_keeps_its_place_and_names(client: Client) -> None:
    frames = [
        StreamFrame(SMALL, FrameIndex("run", 3, t=t), request_id=f"frame-{t}") for t in range(3)
    ]
    frames[1] = StreamFrame(None, frames[1].index, request_id="frame-1")
    found = list(client.stream(frames))
    assert [one.request_id for one in found] == ["frame-0", "frame-1", "frame-2"]
    assert [one.index for one in found] == [frame.index for frame in frames]
    assert [type(one.error) for one in found] == [type(None), errors.InvalidImage, type(None)]


class Stop(BaseException):
    """As KeyboardInterrupt: not an Exception."""


@pytest.mark.parametrize("kind", [RuntimeError, errors.InvalidImage, Stop])
def test_what_frames_raises_comes_as_it_is_after_the_outcomes_before_it(
    client: Client, kind: type[BaseException]
) -> None:
    def camera() -> Iterator[Any]:
        yield from (SMALL, None, SMALL)
        raise kind("the camera is gone")

    stream = client.stream(camera())
    assert [next(stream).sequence for _ in range(3)] == [0, 1, 2]
    with pytest.raises(kind, match="the camera is gone"):
        next(stream)


@pytest.mark.parametrize(
    "address", ["", None, 5, "\0", "\ud800", "http://localhost:50051", "a:1\nb:2"]
)
async def test_an_address_that_is_none_is_refused(address: Any) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(errors.InvalidOption, match="host:port"):
            kind(address)


@pytest.mark.parametrize("token", [None, "secret\n", "sécret", 5, b"secret"])
async def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(token: Any) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(errors.InvalidOption, match="printable ASCII") as raised:
            kind("localhost:1", token=token)
        assert "cret" not in str(raised.value)


def test_a_file_that_is_no_certificate_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("no certificate")
    with pytest.raises(errors.InvalidOption, match="no PEM file"):
        Client("localhost:1", tls_ca=str(path))


async def test_proxies_are_not_asked(
    gateway: Any, fluorescence: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    with Client(gateway.grpc_address) as client:
        assert client.server_info().default_model == "unet"
    async with AsyncClient(gateway.grpc_address) as async_client:
        assert len((await async_client.segment(fluorescence)).nuclei) > 10
