"""The clients, against a real gateway."""

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from nuclei import errors
from nuclei.client import AsyncClient, Client
from nuclei.evaluation.metrics import score_image
from nuclei.imaging.images import Frame, read_frame
from nuclei.inference import pipeline
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.postprocessing.measurement import measure
from nuclei.results.coordinates import PixelSize


@pytest.mark.parametrize("name", ["fluorescence", "fluorescence_16bit", "histology"])
async def test_served_nuclei_are_the_local_ones(
    client: Client, repository: Path, request: pytest.FixtureRequest, name: str
) -> None:
    path: Path = request.getfixturevalue(name)
    served = await asyncio.to_thread(client.segment, path)
    local = await pipeline.segment(read_frame(path), LocalEngine(repository), "unet")
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
    "stack": ({"frame": np.zeros((2, 8, 8, 3), np.uint8)}, errors.InvalidImage),
    "vector": ({"frame": np.zeros(8, np.uint8)}, errors.InvalidImage),
    "zero-size": ({"frame": np.zeros((0, 8), np.uint8)}, errors.InvalidImage),
    "five channels": ({"frame": np.zeros((8, 8, 5), np.uint8)}, errors.InvalidImage),
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
