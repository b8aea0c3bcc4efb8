"""Names that break the rule, through every protocol: refused at once, in a short valid answer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from nuclei.v1 import segmentation_pb2 as pb
from nuclei.v1.segmentation_pb2_grpc import SegmentationStub

LONG = "x" * 2**20
HOSTILE = ["unet\x00", "unet\x00more", "un\net", "\x1b[2Junet", "../unet", "..", "ünet", LONG]
# Requests with a name that breaks the rule, by the field.
FIELDS = ("model", "request_id", "acquisition_uid")


@pytest.fixture(scope="module")
def http(gateway: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=60) as connected:
        yield connected


@pytest.fixture(scope="module")
def stub(gateway: Any) -> Iterator[SegmentationStub]:
    with grpc.insecure_channel(gateway.grpc_address) as channel:
        yield SegmentationStub(channel)


@pytest.fixture
def traces(gateway: Any, http: httpx.Client) -> Iterator[None]:
    """Checks what the test leaves in the log and the metrics."""
    log = gateway.process.log
    before, known = len(log.read_bytes()), labels(http)
    yield
    written = log.read_bytes()[before:]
    assert labels(http) <= {"", "unet", *known}
    assert len(written) < 64 * 2**10
    assert not {byte for byte in written if byte < 0x20} - {ord("\n")}
    assert written.count(b"\n") <= 3 * len(HOSTILE)


def labels(http: httpx.Client) -> set[str]:
    """The models that metrics name."""
    lines = http.get("/metrics").text.splitlines()
    return {line.split('model="')[1].split('"')[0] for line in lines if 'model="' in line}


def request_with(field: str, name: str, encoded: bytes = b"") -> pb.SegmentRequest:
    request = pb.SegmentRequest(frame=pb.Frame(encoded=encoded))
    message: Any = request.frame.index if field == "acquisition_uid" else request
    setattr(message, field, name)
    return request


@pytest.mark.parametrize("field", FIELDS)
def test_over_grpc(stub: SegmentationStub, traces: None, field: str) -> None:
    for name in HOSTILE:
        if field != "model" and name in ("../unet", ".."):
            continue  # impossible for a folder only
        with pytest.raises(grpc.RpcError) as raised:
            stub.Segment(request_with(field, name), timeout=30)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        detail = raised.value.details()
        assert detail.startswith(f"{field} is '")
        assert detail.isprintable()
        assert len(detail) < 400
        metadata: dict[str, Any] = dict(raised.value.trailing_metadata())
        assert metadata["nuclei-error"] == "InvalidOption"


@pytest.mark.parametrize("field", FIELDS)
def test_over_a_stream_the_frame_is_refused_and_the_next_is_answered(
    stub: SegmentationStub, traces: None, fluorescence: Path, field: str
) -> None:
    encoded = fluorescence.read_bytes()
    refused, good = request_with(field, LONG), pb.SegmentRequest(frame=pb.Frame(encoded=encoded))
    frames = [
        pb.SegmentStreamRequest(frame=pb.StreamFrame(request=each)) for each in (refused, good)
    ]
    first, second = sorted(stub.SegmentStream(iter(frames)), key=lambda answer: answer.sequence)
    assert first.error.name == "InvalidOption"
    assert first.error.message.startswith(f"{field} is '")
    assert first.ByteSize() < 1000
    assert second.result.count > 10


def test_over_http(http: httpx.Client, traces: None, fluorescence: Path) -> None:
    for name in HOSTILE:
        if name == LONG:
            continue  # longer than a line of HTTP may be
        answer = http.post("/v1/segment", params={"model": name}, content=b"no image")
        problem = answer.json()
        assert (answer.status_code, problem["title"]) == (400, "InvalidOption")
        assert problem["detail"].startswith("model is '")
        assert problem["detail"].isprintable()
    answer = http.post("/v1/segment", headers={"X-Request-ID": "a\tb"}, content=b"no image")
    assert answer.json()["detail"].startswith("request_id is '")
    answer = http.post("/v1/segment", params={LONG[:30_000]: "1"}, content=b"no image")
    assert answer.json()["title"] == "InvalidOption"
    assert len(answer.text) < 1000
