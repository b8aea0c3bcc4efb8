"""Streams of the clients, against a real gateway."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nuclei import errors
from nuclei.client import AsyncClient, Client, FrameIndex, Outcome, StagePosition, StreamFrame
from nuclei.imaging.images import read_frame

if TYPE_CHECKING:
    from tests.conftest import Gateway

SMALL = np.random.default_rng(5).integers(0, 4000, (64, 64), np.uint16)


def acquisition(n_frames: int, positions: int = 2, **known: Any) -> Iterator[StreamFrame]:
    for number in range(n_frames):
        t, position = divmod(number, positions)
        yield StreamFrame(
            SMALL, FrameIndex("run", position, t), request_id=f"frame-{number}", **known
        )


async def streamed(client: AsyncClient, frames: Any, **options: Any) -> list[Outcome]:
    return [outcome async for outcome in client.stream(frames, **options)]


def test_every_frame_is_answered_in_the_order_of_its_position(client: Client) -> None:
    outcomes = list(client.stream(acquisition(12, 3)))
    assert {outcome.sequence for outcome in outcomes} == set(range(12))
    for position in range(3):
        mine = [o for o in outcomes if o.index is not None and o.index.position == position]
        assert [o.index.t for o in mine if o.index is not None] == [0, 1, 2, 3]
    for outcome in outcomes:
        assert outcome.request_id == f"frame-{outcome.sequence}"
        assert outcome.segmentation is not None
        assert (outcome.error, outcome.skipped) == (None, "")


def test_stream_gives_what_a_single_call_gives(client: Client, fluorescence: Path) -> None:
    place = StagePosition(10.0, -20.0, 3.5)
    known: dict[str, Any] = {
        "index": FrameIndex("run", 1, 2, 3, 4),
        "stage_position": place,
        "pixel_size_um": (0.5, 0.25),
    }
    outputs = ["centroids", "boxes", "features", "labels", "polygons"]
    single = client.segment(fluorescence, outputs=outputs, **known)
    (outcome,) = client.stream([StreamFrame(fluorescence, **known)], outputs=outputs)
    assert (outcome.index, outcome.stage_position) == (known["index"], place)
    found = outcome.segmentation
    assert found is not None
    np.testing.assert_array_equal(found.labels, single.labels)
    np.testing.assert_array_equal(found.centroids_stage_um, single.centroids_stage_um)
    height, width = found.labels.shape
    expected = found.nuclei.centroid_px[:, ::-1] - np.array([width - 1, height - 1]) / 2
    np.testing.assert_allclose(
        found.centroids_stage_um, expected * (0.25, 0.5) + (10.0, -20.0), atol=1e-3
    )


def test_polygons_enclose_their_nuclei(client: Client, fluorescence: Path) -> None:
    found = client.segment(fluorescence, outputs=["polygons", "labels", "boxes"])
    assert found.outlines is not None
    assert [label for label, _ in found.outlines] == list(range(1, len(found.nuclei) + 1))
    for label, polygons in found.outlines:
        corners = np.concatenate(polygons)
        y0, x0, y1, x1 = found.nuclei.box_px[label - 1]
        assert corners.min(axis=0).tolist() == [x0, y0]
        assert corners.max(axis=0).tolist() == [x1, y1]


def test_affine_places_the_nuclei(client: Client, fluorescence: Path) -> None:
    matrix = np.array([[0, -0.5, 100], [0.25, 0, 200]])
    found = client.segment(fluorescence, pixel_to_stage=matrix)
    points = np.column_stack([found.nuclei.centroid_px[:, ::-1], np.ones(len(found.nuclei))])
    np.testing.assert_allclose(found.centroids_stage_um, points @ matrix.T, atol=1e-3)
    assert found.pixel_size_um == (0.5, 0.25)
    with pytest.raises(errors.InvalidOption, match=r"\[2, 3\]"):
        client.segment(fluorescence, pixel_to_stage=np.eye(3))


def test_bad_frames_have_errors_of_their_own(client: Client) -> None:
    frames: list[Any] = [
        SMALL,
        b"no image",
        SMALL.astype(np.complex64),
        Path("nosuch.tif"),
        np.zeros((2, 16385), np.uint8),
        StreamFrame(SMALL, pixel_size_um=(0, 1)),
        StreamFrame(SMALL, request_id="a b"),
        StreamFrame(SMALL, timeout_s=0.001),
        StreamFrame(SMALL, pixel_to_stage=np.zeros((2, 3))),
        SMALL,
    ]
    outcomes = sorted(client.stream(frames), key=lambda outcome: outcome.sequence)
    found = [type(outcome.error) for outcome in outcomes]
    assert found == [
        type(None),
        *(errors.InvalidImage,) * 3,
        errors.FrameTooLarge,
        errors.InvalidOption,
        errors.InvalidOption,
        errors.DeadlineExceeded,
        errors.InvalidOption,
        type(None),
    ]
    assert "nosuch.tif" in str(outcomes[3].error)
    assert all(bool(o.segmentation) != bool(o.error) for o in outcomes)


def test_unknown_model_is_reported_for_every_frame(client: Client) -> None:
    outcomes = list(client.stream([SMALL, SMALL], model="nosuch"))
    assert [type(outcome.error) for outcome in outcomes] == [errors.ModelNotFound] * 2


@pytest.mark.parametrize("overflow", ["drop_oldest", "latest_only"])
def test_skipped_frames_are_reported(client: Client, overflow: str) -> None:
    outcomes = list(client.stream(acquisition(60), overflow=overflow, outputs=[]))
    assert {outcome.sequence for outcome in outcomes} == set(range(60))
    skipped = [outcome for outcome in outcomes if outcome.skipped]
    assert skipped
    assert overflow.upper() in skipped[0].skipped
    assert all(outcome.segmentation or outcome.skipped for outcome in outcomes)
    assert any(outcome.sequence >= 58 and outcome.segmentation for outcome in outcomes)


BAD_OPTIONS: dict[str, dict[str, Any]] = {
    "overflow": {"overflow": "wait"},
    "outputs": {"outputs": ["volume"]},
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_impossible_options_are_refused(client: Client, name: str) -> None:
    with pytest.raises(errors.InvalidOption, match="expected"):
        client.stream([SMALL], **BAD_OPTIONS[name])


def test_what_the_frames_raise_comes_after_their_outcomes(client: Client) -> None:
    def camera() -> Iterator[np.ndarray]:
        yield SMALL
        raise RuntimeError("the camera is gone")

    outcomes = client.stream(camera())
    assert next(outcomes).segmentation is not None
    with pytest.raises(RuntimeError, match="camera is gone"):
        next(outcomes)


def test_no_frames_give_no_outcomes(client: Client) -> None:
    assert list(client.stream([])) == []


def test_leaving_early_ends_the_reading_and_the_work(client: Client, gateway: "Gateway") -> None:
    taken = itertools.count()
    closed = threading.Event()

    def camera() -> Iterator[np.ndarray]:
        try:
            for _ in range(100_000):
                next(taken)
                yield SMALL
        finally:
            closed.set()

    outcomes = client.stream(camera())
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    assert closed.wait(5)
    assert next(taken) < 10_000
    wait_idle(gateway)


def wait_idle(gateway: "Gateway", seconds: float = 5.0) -> None:
    """Wait until the gateway holds no frame."""
    import httpx

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        lines = httpx.get(f"{gateway.url}/metrics").text.splitlines()
        held = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        names = ("nuclei_frames_in_flight", "nuclei_in_flight_bytes", "nuclei_frames_in_work")
        if all(float(held[name]) == 0 for name in names):
            return
        time.sleep(0.05)
    pytest.fail(f"frames are still held: {held}")


def test_absent_gateway_is_reported_at_once() -> None:
    started = time.monotonic()
    with Client("127.0.0.1:1") as nobody, pytest.raises(errors.EngineUnavailable):
        list(nobody.stream([SMALL]))
    assert time.monotonic() - started < 2


async def test_async_stream_is_the_same(gateway: "Gateway", fluorescence: Path) -> None:
    async def camera() -> AsyncIterator[Any]:
        for frame in (*acquisition(4), b"no image", fluorescence):
            yield frame
            await asyncio.sleep(0.001)

    async with AsyncClient(gateway.grpc_address) as client:
        outcomes = await streamed(client, camera())
        again = await streamed(client, list(acquisition(3)), outputs=[])
    by_sequence = {outcome.sequence: outcome for outcome in outcomes}
    assert sorted(by_sequence) == list(range(6))
    assert isinstance(by_sequence[4].error, errors.InvalidImage)
    assert len(by_sequence[5].segmentation.nuclei) > 10
    assert len(again) == 3


async def test_async_stream_can_be_left_and_can_fail(gateway: "Gateway") -> None:
    async def endless() -> AsyncIterator[np.ndarray]:
        while True:
            yield SMALL

    async def broken() -> AsyncIterator[np.ndarray]:
        yield SMALL
        raise RuntimeError("the camera is gone")

    async with AsyncClient(gateway.grpc_address) as client:
        stream = client.stream(endless())
        async for outcome in stream:
            assert outcome.segmentation is not None
            break
        await stream.aclose()  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError, match="camera is gone"):
            await streamed(client, broken())
        with pytest.raises(errors.InvalidOption):
            client.stream([SMALL], overflow="wait")
    await asyncio.to_thread(wait_idle, gateway)


async def test_async_client_reports_an_absent_gateway_at_once() -> None:
    async with AsyncClient("127.0.0.1:1") as nobody:
        with pytest.raises(errors.EngineUnavailable):
            await streamed(nobody, list(acquisition(3)))


@pytest.mark.parametrize("given", ["ca", "pair"])
def test_tls_files_go_together(tmp_path: Path, given: str) -> None:
    missing = tmp_path / "missing.pem"
    files = {"tls_ca": missing} if given == "ca" else {"tls_certificate": missing}
    with pytest.raises(errors.InvalidOption, match=r"cannot be read|together"):
        Client("localhost:1", **files)


def test_frames_of_a_file_keep_its_pixel_size(client: Client, fluorescence_16bit: Path) -> None:
    frame = read_frame(fluorescence_16bit)
    (outcome,) = client.stream([frame], outputs=["centroids"])
    assert outcome.segmentation is not None
    assert outcome.segmentation.pixel_size_um == frame.pixel_size_um
