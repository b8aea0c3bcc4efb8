"""The clients, against a real gateway."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
import tifffile

from nuclei import errors
from nuclei.client import AsyncClient, Client
from nuclei.evaluation.metrics import score_image
from nuclei.imaging.images import Frame, frame_from_array, read_frame
from nuclei.inference import pipeline
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.postprocessing.measurement import measure
from nuclei.results.coordinates import PixelSize
from nuclei.results.segmentation import Segmentation


@pytest.mark.parametrize("name", ["fluorescence", "fluorescence_16bit", "histology"])
async def test_served_nuclei_are_the_local_ones(
    client: Client, repository: Path, request: pytest.FixtureRequest, name: str
) -> None:
    path: Path = request.getfixturevalue(name)
    served = await asyncio.to_thread(client.segment, path)
    engine = LocalEngine(repository)
    local = await pipeline.segment(read_frame(path), engine, engine.find("unet"))
    assert len(served.nuclei) > 10
    # Triton may compute in bfloat16: outlines differ by single pixels, and doubtful objects.
    assert score_image(local.labels, served.labels)["f1_0.75"] > 0.95
    again = measure(served.labels, read_frame(path).pixels, np.zeros(served.labels.shape, np.uint8))
    for column in ("label", "area_px", "centroid_px", "box_px", "eccentricity", "mean_intensity"):
        np.testing.assert_allclose(
            getattr(served.nuclei, column), getattr(again, column), rtol=1e-5
        )


def test_every_kind_of_frame_gives_the_same(client: Client, histology: Path) -> None:
    frame = read_frame(histology)
    results = [
        client.segment(given)
        for given in (
            histology,
            histology.read_bytes(),
            frame,
            frame.pixels,
            np.asfortranarray(frame.pixels),
        )
    ]
    for result in results:
        np.testing.assert_array_equal(result.labels, results[0].labels)
        np.testing.assert_array_equal(result.nuclei.score, results[0].nuclei.score)


def test_big_endian_pixels_are_understood(client: Client, fluorescence_16bit: Path) -> None:
    pixels = read_frame(fluorescence_16bit).pixels[:200, :200]
    assert len(client.segment(pixels.astype(">u2")).nuclei) == len(client.segment(pixels).nuclei)


def same(one: Segmentation, other: Segmentation) -> None:
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_allclose(one.nuclei.mean_intensity, other.nuclei.mean_intensity, rtol=1e-5)
    assert one.intensity_range == pytest.approx(other.intensity_range)
    assert one.warnings == other.warnings


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4", "u4", "i4", "i2", "i8"])
def test_frames_of_other_types_give_the_nuclei_of_their_values(
    client: Client, fluorescence_16bit: Path, dtype: str
) -> None:
    pixels = read_frame(fluorescence_16bit).pixels[:200, :200]
    same(client.segment((pixels // 2).astype(dtype)), client.segment(pixels // 2))


async def test_scaled_frames_are_in_their_own_units(
    client: Client, repository: Path, fluorescence_16bit: Path
) -> None:
    """Whether this process scales them or the server does."""
    pixels = read_frame(fluorescence_16bit).pixels[:200, :200]
    counts, fractions = client.segment(pixels), (pixels / 65535 - 0.25).astype(np.float32)
    found = client.segment(fractions)
    assert len(found.nuclei) == pytest.approx(len(counts.nuclei), abs=1)
    assert found.nuclei.mean_intensity.mean() == pytest.approx(
        counts.nuclei.mean_intensity.mean() / 65535 - 0.25, abs=1e-3
    )
    lo, hi = counts.intensity_range or (0, 0)
    assert found.intensity_range == pytest.approx((lo / 65535 - 0.25, hi / 65535 - 0.25), abs=1e-3)
    assert "float32" in found.warnings[0]
    frame = frame_from_array(fractions)
    same(client.segment(frame), found)
    engine = LocalEngine(repository)
    local = await pipeline.segment(frame, engine, engine.find("unet"))
    assert (local.warnings, local.intensity_range) == (found.warnings, found.intensity_range)
    (outcome,) = client.stream([frame])
    assert outcome.segmentation is not None
    same(outcome.segmentation, found)


def test_classes_of_the_caller_need_pixels_and_a_size_only(
    client: Client, fluorescence: Path
) -> None:
    pixels = read_frame(fluorescence).pixels
    layer = SimpleNamespace(
        pixels=pixels, pixel_size_um=(0.5, 0.5), scale=(1, 1), warnings=3, intensity_range="auto"
    )
    same(client.segment(layer), client.segment(pixels))


def test_a_plane_and_a_channel_of_an_array_or_a_file_are_the_same(
    client: Client, fluorescence_16bit: Path, tmp_path: Path
) -> None:
    pixels = read_frame(fluorescence_16bit).pixels[:160, :160, 0]
    stack = np.stack([np.zeros_like(pixels), pixels, pixels // 3, pixels[::-1]])
    expected = client.segment(pixels[::-1])
    assert len(expected.nuclei) > 3
    path = tmp_path / "stack.tif"
    metadata = {"axes": "CYX", "Channel": {"Name": ["empty", "DAPI", "GFP", "red"]}}
    tifffile.imwrite(path, stack, ome=True, metadata=metadata, photometric="minisblack")
    for frame in (path, path.read_bytes()):
        np.testing.assert_array_equal(client.segment(frame, channel="RED").labels, expected.labels)
        np.testing.assert_array_equal(client.segment(frame, channel=3).labels, expected.labels)
    for array in (stack, np.moveaxis(stack, 0, -1)):
        found = client.segment(array, channel=3)
        np.testing.assert_array_equal(found.labels, expected.labels)
        assert "channel 3" in found.warnings[0]
    np.testing.assert_array_equal(client.segment(stack, plane=3).labels, expected.labels)
    (outcome,) = client.stream([stack], channel=3)
    assert outcome.segmentation is not None
    np.testing.assert_array_equal(outcome.segmentation.labels, expected.labels)


def test_the_intensity_range_may_be_given(client: Client, fluorescence_16bit: Path) -> None:
    pixels = read_frame(fluorescence_16bit).pixels[:160, :160]
    given = client.segment(pixels, intensity_range=(100, 2000.5))
    assert given.intensity_range == (100, 2000.5)
    percentiles = client.segment(pixels, intensity_percentiles=(1, 99))
    assert percentiles.intensity_range == pytest.approx(
        tuple(np.percentile(pixels, (1, 99))), abs=1
    )
    dark = client.segment(pixels, intensity_range=(6000, 65000))
    assert len(dark.nuclei) < len(given.nuclei)


BAD_OPTIONS: dict[str, dict[str, Any]] = {
    "channel that is not there": {"channel": 3},
    "channel of another type": {"channel": 1.5},
    "plane that is not there": {"plane": 1},
    "plane of another type": {"plane": "a"},
    "projection": {"project": "mean"},
    "range the wrong way": {"intensity_range": (9, 1)},
    "range of one": {"intensity_range": 5},
    "percentiles above 100": {"intensity_percentiles": (0, 101)},
    "both": {"intensity_percentiles": (0, 99), "intensity_range": (0, 9)},
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
@pytest.mark.parametrize("as_file", [False, True])
def test_options_that_fit_no_frame_are_refused(
    client: Client, fluorescence: Path, name: str, as_file: bool
) -> None:
    frame = fluorescence if as_file else np.zeros((64, 64), np.uint8)
    with pytest.raises(errors.InvalidOption):
        client.segment(frame, **BAD_OPTIONS[name])


def test_result_is_whole(client: Client, fluorescence: Path) -> None:
    result = client.segment(fluorescence, pixel_size_um=(0.5, 0.25), request_id="whole")
    assert result.labels.dtype == np.uint32
    assert result.labels.max() == len(result.nuclei)
    assert result.pixel_size_um == PixelSize(y=0.5, x=0.25)
    assert result.nuclei.box_px.shape == (len(result.nuclei), 4)
    assert (result.model, result.version.isdigit()) == ("unet", True)
    assert result.stage_ms["infer"] > 0


def test_what_is_left_out_is_empty(client: Client, fluorescence: Path) -> None:
    few = client.segment(fluorescence, outputs=["centroids"])
    none = client.segment(fluorescence, outputs=[])
    assert few.nuclei.centroid_px.shape == (len(few.nuclei), 2)
    assert few.labels.shape == (0, 0)
    assert few.nuclei.area_px.shape == (0,)
    assert len(none.nuclei) == len(few.nuclei) > 10
    assert none.nuclei.box_px.shape == (0, 4)


async def test_async_client_runs_requests_together(gateway: Any, fluorescence: Path) -> None:
    async with AsyncClient(gateway.grpc_address) as client:
        info = await client.server_info()
        results = await asyncio.gather(*(client.segment(fluorescence) for _ in range(4)))
    assert [model.name for model in info.models] == ["unet"]
    assert len({len(result.nuclei) for result in results}) == 1


def test_server_info(client: Client) -> None:
    assert client.server_info().default_model == "unet"


def test_own_channel_is_used(gateway: Any, fluorescence: Path) -> None:
    channel = grpc.insecure_channel(gateway.grpc_address)
    with Client("nowhere.invalid:1", channel=channel) as client:
        assert len(client.segment(fluorescence).nuclei) > 10


BAD_CALLS: dict[str, tuple[dict[str, Any], type[errors.NucleiError]]] = {
    "not an image": ({"frame": b"text"}, errors.InvalidImage),
    "no file": ({"frame": Path("nosuch.png")}, errors.InvalidImage),
    "not numbers": ({"frame": np.full((8, 8), np.nan, np.float32)}, errors.InvalidImage),
    "complex": ({"frame": np.zeros((8, 8), np.complex64)}, errors.InvalidImage),
    "stack": ({"frame": np.zeros((2, 8, 8, 3), np.uint8)}, errors.ChoiceRequired),
    "vector": ({"frame": np.zeros(8, np.uint8)}, errors.InvalidImage),
    "zero-size": ({"frame": np.zeros((0, 8), np.uint8)}, errors.InvalidImage),
    "five channels": ({"frame": np.zeros((8, 8, 5), np.uint8)}, errors.ChoiceRequired),
    "too wide": ({"frame": np.zeros((1, 16385), np.uint8)}, errors.FrameTooLarge),
    "too long for gRPC": ({"frame": np.zeros((3200, 3200), np.uint8)}, errors.FrameTooLarge),
    "model": ({"model": "nosuch"}, errors.ModelNotFound),
    "output": ({"outputs": ["volume"]}, errors.InvalidOption),
    "pixel size": ({"pixel_size_um": (0.0, 1.0)}, errors.InvalidOption),
    "request id": ({"request_id": "a b"}, errors.InvalidOption),
    "time": ({"timeout_s": 0.001}, errors.DeadlineExceeded),
}


@pytest.mark.parametrize("name", BAD_CALLS)
async def test_error_has_the_class_that_the_gateway_raised(
    client: Client, gateway: Any, name: str
) -> None:
    arguments, expected = BAD_CALLS[name]
    call = {"frame": Frame(np.zeros((64, 64, 1), np.uint8)), **arguments}
    with pytest.raises(errors.NucleiError) as blocking:
        await asyncio.to_thread(lambda: client.segment(**call))
    async with AsyncClient(gateway.grpc_address) as async_client:
        with pytest.raises(errors.NucleiError) as awaited:
            await async_client.segment(**call)
    assert type(blocking.value) is type(awaited.value) is expected
    assert str(blocking.value)


def test_absent_gateway_is_reported_at_once() -> None:
    started = time.monotonic()
    with Client("127.0.0.1:1") as client, pytest.raises(errors.EngineUnavailable, match="start it"):
        client.segment(np.zeros((8, 8), np.uint8))
    assert time.monotonic() - started < 2


async def test_a_gateway_that_takes_its_time_to_connect_is_reached(gateway: Any) -> None:
    passed_on = asyncio.Event()

    async def passes_on_late(near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.5)  # as a busy server, or one far away
        far, there = await asyncio.open_connection(*gateway.grpc_address.rsplit(":", 1))
        await asyncio.gather(_pass_on(near, there), _pass_on(far, back))
        passed_on.set()

    server = await asyncio.start_server(passes_on_late, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with AsyncClient(f"{host}:{port}") as client:
        assert (await client.server_info()).default_model == "unet"
    await passed_on.wait()
    server.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()
    await writer.wait_closed()


def test_a_server_of_another_kind_is_told_from_a_gateway() -> None:
    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    with (
        Client(f"127.0.0.1:{port}") as client,
        pytest.raises(errors.EngineFailed, match="is it a nuclei gateway"),
    ):
        client.server_info()
    other.stop(None).wait()


async def test_a_reason_that_grpc_lost_is_not_taken_for_another_server() -> None:
    async def refuse(_: Any, context: Any) -> None:
        await context.abort(
            grpc.StatusCode.RESOURCE_EXHAUSTED, "full", (("nuclei-error", "Overloaded"),)
        )

    other = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(refuse)
    methods = {"SegmentStream": handler}
    other.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("nuclei.v1.Segmentation", methods),)
    )
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    frame = np.zeros((512, 512), np.uint8)
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        for _ in range(50):
            with pytest.raises((errors.Overloaded, errors.EngineUnavailable), match=r"full|lost"):
                async for _ in client.stream([frame] * 8):
                    pass
    await other.stop(None)


def test_an_http_server_is_told_from_a_gateway(gateway: Any) -> None:
    address = gateway.url.removeprefix("http://")
    with Client(address) as client, pytest.raises(errors.EngineUnavailable, match="gRPC port"):
        client.server_info()
