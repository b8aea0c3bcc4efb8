"""nuclei.v1 over a real gateway and a real Triton."""

import io
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tifffile
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from nuclei.imaging.images import read_frame
from nuclei.processor import fast_precision, read_cpuinfo
from nuclei.results.label_codec import decompress_labels
from nuclei.v1 import segmentation_pb2 as pb
from nuclei.v1.segmentation_pb2_grpc import SegmentationStub
from nuclei.version import installed_version

SERVICE = "nuclei.v1.Segmentation"
ALL_OUTPUTS = [value for value in pb.Output.values() if value != pb.OUTPUT_UNSPECIFIED]


@pytest.fixture(scope="module")
def channel(gateway: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(gateway.grpc_address) as connected:
        yield connected


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> SegmentationStub:
    return SegmentationStub(channel)


def raw_frame(side: int = 64, **changes: Any) -> pb.Frame:
    pixels = np.random.default_rng(1).integers(0, 4000, (side, side)).astype("<u2")
    raw = {
        "data": pixels.tobytes(),
        "height": side,
        "width": side,
        "pixel_type": pb.PIXEL_TYPE_UINT16,
        **changes,
    }
    return pb.Frame(raw=pb.RawPixels(**raw))


def chosen(**choice: Any) -> pb.Frame:
    frame = raw_frame()
    frame.MergeFrom(pb.Frame(**choice))
    return frame


def refusal(stub: SegmentationStub, request: pb.SegmentRequest, **call: Any) -> tuple[Any, str]:
    """(status, name of the error) of a call that must fail; its message must hold no secrets."""
    with pytest.raises(grpc.RpcError) as raised:
        stub.Segment(request, timeout=call.pop("timeout", 30))
    detail = raised.value.details()
    assert not re.search(r"Traceback|\.py\b|/(home|root|tmp|usr)/", detail), detail
    metadata: dict[str, Any] = dict(raised.value.trailing_metadata())
    name = metadata.get("nuclei-error", "")
    return raised.value.code(), f"{name}: {detail}"


def test_every_output_describes_the_same_nuclei(stub: SegmentationStub, fluorescence: Path) -> None:
    frame = pb.Frame(encoded=fluorescence.read_bytes())
    reply = stub.Segment(pb.SegmentRequest(frame=frame, outputs=ALL_OUTPUTS))
    labels = decompress_labels(reply.labels.data, reply.labels.height, reply.labels.width)
    nuclei = reply.nuclei
    assert reply.count == labels.max() == len(nuclei.label) > 10
    assert np.bincount(labels.ravel())[1:].tolist() == list(nuclei.area_px)
    for index, label in enumerate(nuclei.label):
        ys, xs = np.nonzero(labels == label)
        assert nuclei.centroid_x_px[index] == pytest.approx(xs.mean(), abs=1e-2)
        assert nuclei.centroid_y_px[index] == pytest.approx(ys.mean(), abs=1e-2)
        box = [column[index] for column in (
            nuclei.box_x0_px, nuclei.box_y0_px, nuclei.box_x1_px, nuclei.box_y1_px)]  # fmt: skip
        assert box == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert set(reply.polygons.label) == set(nuclei.label)
    assert sum(reply.polygons.point_count) == len(reply.polygons.x_px)


def test_default_outputs_are_the_columns(stub: SegmentationStub, fluorescence: Path) -> None:
    frame = pb.Frame(encoded=fluorescence.read_bytes())
    reply = stub.Segment(pb.SegmentRequest(frame=frame))
    assert len(reply.nuclei.score) == len(reply.nuclei.box_x0_px) == reply.count
    assert not reply.HasField("labels")
    assert not reply.HasField("polygons")
    assert reply.request_id
    assert {"decode", "infer", "postprocess"} <= set(reply.stage_ms)
    assert reply.server_version == stub.GetServerInfo(pb.GetServerInfoRequest()).server_version
    assert reply.server_version == installed_version()


def test_count_alone_is_a_short_reply(stub: SegmentationStub, fluorescence: Path) -> None:
    request = pb.SegmentRequest(
        frame=pb.Frame(encoded=fluorescence.read_bytes()), outputs=[pb.OUTPUT_COUNT]
    )
    reply = stub.Segment(request)
    assert reply.count > 10
    assert reply.ByteSize() < 600


def test_request_id_index_and_stage_position_come_back(stub: SegmentationStub) -> None:
    frame = raw_frame()
    frame.index.MergeFrom(pb.FrameIndex(acquisition_uid="a-1", position=3, t=7, c=1, z=2))
    frame.stage_position.MergeFrom(pb.StagePosition(x_um=5, y_um=6, z_um=7))
    reply = stub.Segment(pb.SegmentRequest(frame=frame, request_id="frame-7"))
    assert reply.request_id == "frame-7"
    assert reply.index == frame.index
    assert reply.stage_position == frame.stage_position


def test_affine_gives_stage_coordinates_and_pixel_size(
    stub: SegmentationStub, fluorescence: Path
) -> None:
    frame = pb.Frame(encoded=fluorescence.read_bytes())
    frame.pixel_to_stage.MergeFrom(
        pb.Affine(xx=0, xy=-0.5, x_offset_um=100, yx=0.25, yy=0, y_offset_um=200)
    )
    reply = stub.Segment(pb.SegmentRequest(frame=frame))
    x, y = np.array(reply.nuclei.centroid_x_px), np.array(reply.nuclei.centroid_y_px)
    np.testing.assert_allclose(reply.nuclei.centroid_stage_x_um, 100 - 0.5 * y, atol=1e-3)
    np.testing.assert_allclose(reply.nuclei.centroid_stage_y_um, 200 + 0.25 * x, atol=1e-3)
    assert (reply.pixel_size.x_um, reply.pixel_size.y_um) == (0.25, 0.5)
    np.testing.assert_allclose(
        reply.nuclei.area_um2, np.array(reply.nuclei.area_px) * 0.125, rtol=1e-5
    )


def test_stage_position_is_the_centre_of_the_frame(
    stub: SegmentationStub, fluorescence: Path
) -> None:
    frame = pb.Frame(encoded=fluorescence.read_bytes(), pixel_size=pb.PixelSize(x_um=2, y_um=3))
    frame.stage_position.MergeFrom(pb.StagePosition(x_um=1000, y_um=2000))
    reply = stub.Segment(pb.SegmentRequest(frame=frame))
    expected = 1000 + 2 * (np.array(reply.nuclei.centroid_x_px) - (reply.width - 1) / 2)
    np.testing.assert_allclose(reply.nuclei.centroid_stage_x_um, expected, atol=1e-2)


def test_pixel_size_of_the_file_is_used(stub: SegmentationStub, fluorescence_16bit: Path) -> None:
    file = io.BytesIO()
    pixels = read_frame(fluorescence_16bit).pixels[:96, :96, 0]
    tifffile.imwrite(file, pixels, resolution=(20000, 20000), resolutionunit="CENTIMETER")
    reply = stub.Segment(pb.SegmentRequest(frame=pb.Frame(encoded=file.getvalue())))
    assert reply.pixel_size.x_um == pytest.approx(0.5)


@pytest.mark.parametrize(("dtype", "pixel_type"), [("u1", 1), ("<u2", 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_raw_pixels_equal_the_encoded_ones(
    stub: SegmentationStub, histology: Path, dtype: str, pixel_type: int, channels: int
) -> None:
    pixels = read_frame(histology).pixels[:128, :96, :channels].astype(dtype)
    height, width = pixels.shape[:2]
    file = io.BytesIO()
    tifffile.imwrite(file, pixels if channels == 3 else pixels[:, :, 0])
    raw = pb.RawPixels(data=pixels.tobytes(), height=height, width=width, channels=channels)
    raw.pixel_type = pixel_type  # type: ignore[assignment]
    from_raw = stub.Segment(pb.SegmentRequest(frame=pb.Frame(raw=raw)))
    from_file = stub.Segment(pb.SegmentRequest(frame=pb.Frame(encoded=file.getvalue())))
    assert from_raw.nuclei == from_file.nuclei


@pytest.mark.parametrize(
    ("pixel_type", "dtype"),
    [
        (pb.PIXEL_TYPE_INT16, "<i2"),
        (pb.PIXEL_TYPE_UINT32, "<u4"),
        (pb.PIXEL_TYPE_INT32, "<i4"),
        (pb.PIXEL_TYPE_FLOAT32, "<f4"),
        (pb.PIXEL_TYPE_FLOAT64, "<f8"),
    ],
)
def test_raw_pixels_of_every_type_and_many_channels(
    stub: SegmentationStub, fluorescence_16bit: Path, pixel_type: int, dtype: str
) -> None:
    pixels = read_frame(fluorescence_16bit).pixels[:96, :96, 0] // 2
    channels = np.stack([pixels * 0, pixels, 32767 - pixels, pixels * 0, pixels * 0], axis=2)
    frame = pb.Frame(
        raw=pb.RawPixels(
            data=channels.astype(dtype).tobytes(),
            height=96,
            width=96,
            channels=5,
            pixel_type=pixel_type,
        ),
        intensity_range=pb.IntensityRange(lo=100, hi=1000),
    )
    _, said = refusal(stub, pb.SegmentRequest(frame=frame))
    assert said.startswith("ChoiceRequired: the image has 5 channels")
    frame.channel = "1"
    found = stub.Segment(pb.SegmentRequest(frame=frame))
    assert found.count > 3
    assert (found.intensity_range.lo, found.intensity_range.hi) == (100, 1000)
    assert list(found.warnings) == ["channel 1 of 5 was segmented, as `channel` says"]


def test_bad_frame_is_named(stub: SegmentationStub, bad_frame: Any) -> None:
    frame = pb.Frame(encoded=bad_frame.encoded())
    status, said = refusal(stub, pb.SegmentRequest(frame=frame))
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert said.startswith(f"{bad_frame.error.__name__}:")
    assert bad_frame.says in said


BAD_REQUESTS = {
    "no frame": (pb.SegmentRequest(), "InvalidImage"),
    "short data": (pb.SegmentRequest(frame=raw_frame(height=65)), "InvalidImage"),
    "long data": (pb.SegmentRequest(frame=raw_frame(height=63)), "InvalidImage"),
    "zero wide": (pb.SegmentRequest(frame=raw_frame(width=0, data=b"")), "InvalidImage"),
    "two channels": (pb.SegmentRequest(frame=raw_frame(height=32, channels=2)), "ChoiceRequired"),
    "many channels": (pb.SegmentRequest(frame=raw_frame(channels=2**32 - 1)), "InvalidImage"),
    "no pixel type": (pb.SegmentRequest(frame=raw_frame(pixel_type=0)), "InvalidImage"),
    "model in a folder": (pb.SegmentRequest(frame=raw_frame(), model="../unet"), "InvalidOption"),
    "model on two lines": (pb.SegmentRequest(frame=raw_frame(), model="unet\n"), "InvalidOption"),
    "no channel": (pb.SegmentRequest(frame=chosen(channel="1")), "InvalidOption"),
    "no plane": (pb.SegmentRequest(frame=chosen(plane=1)), "InvalidOption"),
    "projection 9": (pb.SegmentRequest(frame=chosen(projection=9)), "InvalidOption"),
    "half a range": (
        pb.SegmentRequest(frame=chosen(intensity_range=pb.IntensityRange(lo=1))), "InvalidOption"
    ),
    "percentiles": (
        pb.SegmentRequest(
            frame=chosen(intensity_percentiles=pb.IntensityPercentiles(lo=1, hi=101))
        ),
        "InvalidOption",
    ),
    "other pixel type": (pb.SegmentRequest(frame=raw_frame(pixel_type=9)), "InvalidImage"),
    "huge": (pb.SegmentRequest(frame=raw_frame(height=2**31, width=2**31)), "FrameTooLarge"),
    "over the bytes": (
        pb.SegmentRequest(frame=pb.Frame(encoded=bytes(8 * 2**20 + 1))),
        "FrameTooLarge",
    ),
    "output 0": (pb.SegmentRequest(frame=raw_frame(), outputs=[0]), "InvalidOption"),
    "output 99": (pb.SegmentRequest(frame=raw_frame(), outputs=[99]), "InvalidOption"),
    "request id": (pb.SegmentRequest(frame=raw_frame(), request_id="a\nb"), "InvalidOption"),
    "long request id": (pb.SegmentRequest(frame=raw_frame(), request_id="a" * 129),
                        "InvalidOption"),
    "half a pixel size": (
        pb.SegmentRequest(
            frame=pb.Frame(raw=raw_frame().raw, pixel_size=pb.PixelSize(x_um=1))
        ),
        "InvalidOption",
    ),
    "two sizes": (
        pb.SegmentRequest(
            frame=pb.Frame(
                raw=raw_frame().raw,
                pixel_size=pb.PixelSize(x_um=1, y_um=1),
                pixel_to_stage=pb.Affine(xx=1, yy=1),
            )
        ),
        "InvalidOption",
    ),
    "flat affine": (
        pb.SegmentRequest(frame=pb.Frame(raw=raw_frame().raw, pixel_to_stage=pb.Affine(xx=1))),
        "InvalidOption",
    ),
    "no such stage": (
        pb.SegmentRequest(
            frame=pb.Frame(
                raw=raw_frame().raw,
                pixel_size=pb.PixelSize(x_um=1, y_um=1),
                stage_position=pb.StagePosition(x_um=float("nan")),
            )
        ),
        "InvalidOption",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_bad_request_is_named(stub: SegmentationStub, name: str) -> None:
    request, error = BAD_REQUESTS[name]
    status, said = refusal(stub, request)
    assert (status, said.partition(":")[0]) == (grpc.StatusCode.INVALID_ARGUMENT, error)


@pytest.mark.parametrize("model", ["nosuch", "preprocess"])
def test_unknown_model_is_not_found(stub: SegmentationStub, model: str) -> None:
    status, said = refusal(stub, pb.SegmentRequest(frame=raw_frame(), model=model))
    assert (status, said.partition(":")[0]) == (grpc.StatusCode.NOT_FOUND, "ModelNotFound")


def test_deadline_ends_the_call(stub: SegmentationStub, fluorescence_16bit: Path) -> None:
    frame = pb.Frame(encoded=fluorescence_16bit.read_bytes())
    status, _ = refusal(stub, pb.SegmentRequest(frame=frame, tta=True), timeout=0.1)
    assert status is grpc.StatusCode.DEADLINE_EXCEEDED


def test_deadline_may_be_far_away(stub: SegmentationStub) -> None:
    reply = stub.Segment(pb.SegmentRequest(frame=raw_frame()), timeout=1e9)
    assert reply.height == 64


def test_concurrent_requests_do_not_mix(stub: SegmentationStub, fluorescence: Path) -> None:
    pixels = read_frame(fluorescence).pixels[:, :, 0]
    turned = [
        np.ascontiguousarray(np.rot90(pixels, turns)[: 200 + 40 * turns]) for turns in range(4)
    ]

    def segment(index: int) -> pb.SegmentResponse:
        part = turned[index]
        raw = pb.RawPixels(data=part.tobytes(), height=part.shape[0], width=part.shape[1])
        raw.pixel_type = pb.PIXEL_TYPE_UINT8
        return stub.Segment(pb.SegmentRequest(frame=pb.Frame(raw=raw), request_id=f"r{index}"))

    alone = [segment(index) for index in range(4)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(segment, [0, 1, 2, 3] * 3))
    for index, reply in enumerate(together):
        assert reply.request_id == f"r{index % 4}"
        assert reply.height == turned[index % 4].shape[0]
        assert abs(reply.count - alone[index % 4].count) <= 1


def test_server_info_names_models_and_limits(stub: SegmentationStub) -> None:
    info = stub.GetServerInfo(pb.GetServerInfoRequest())
    assert info.default_model == "unet"
    assert [(model.name, model.tta) for model in info.models] == [("unet", True)]
    assert info.models[0].version.isdigit()
    assert info.models[0].precision == fast_precision(read_cpuinfo()).lower()
    tuned = info.models[0].tuned
    assert set(tuned.threshold) == set(tuned.min_area_px) == {"grey", "colour"}
    assert set(tuned.diameter_px) == {"grey", "colour"}
    assert all(0 < value < 1 for value in tuned.threshold.values())
    assert all(value > 0 for value in tuned.min_area_px.values())
    assert info.limits.max_request_bytes == 8 * 2**20
    assert info.limits.default_timeout_ms == 30000


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_is_serving(channel: grpc.Channel, service: str) -> None:
    check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
    reply = check(health_pb2.HealthCheckRequest(service=service))
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_service(channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (reply,) = stub.ServerReflectionInfo(iter([request]))
    names = {service.name for service in reply.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names
