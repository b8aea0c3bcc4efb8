"""Messages of every kind over a real gateway: each is answered, or refused with a typed error."""

from collections.abc import Iterator
from typing import Any

import grpc
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nuclei import errors
from nuclei.v1 import segmentation_pb2 as pb
from nuclei.v1.segmentation_pb2_grpc import SegmentationStub
from tests.fuzz.frames import corpus, requests, stream_requests

REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
TIMEOUT_S = 30
LEAK_ROUNDS = 150
LEAK_BYTES = 48 * 2**20

over_a_gateway = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@pytest.fixture(scope="module")
def channel(gateway: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(gateway.grpc_address) as connected:
        yield connected


def check_refusal(error: Any) -> None:
    """A status that says what the caller should change, with the class of the error."""
    assert error.code() in REFUSALS, f"{error.code()}: {error.details()}"
    name = dict(error.trailing_metadata())["nuclei-error"]
    assert issubclass(getattr(errors, name), errors.NucleiError)
    assert error.details()


def check_outcome(answer: pb.SegmentStreamResponse) -> None:
    if answer.HasField("error"):
        raised = getattr(errors, answer.error.name)
        assert grpc.StatusCode[raised.grpc_status] in REFUSALS, answer.error
        assert grpc.StatusCode[raised.grpc_status].value[0] == answer.error.code
        assert answer.error.message
    else:
        assert answer.HasField("result") or answer.skipped.reason


@over_a_gateway
@given(request=requests())
def test_requests(channel: grpc.Channel, request: pb.SegmentRequest) -> None:
    try:
        reply = SegmentationStub(channel).Segment(request, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        check_refusal(error)
    else:
        assert reply.model_version
        assert reply.height * reply.width > 0


@over_a_gateway
@given(sent=st.lists(stream_requests(), max_size=6))
def test_streams(channel: grpc.Channel, sent: list[pb.SegmentStreamRequest]) -> None:
    answered = []
    try:
        for answer in SegmentationStub(channel).SegmentStream(iter(sent), timeout=TIMEOUT_S):
            check_outcome(answer)
            answered.append(answer.sequence)
    except grpc.RpcError as error:
        check_refusal(error)
    else:
        frames = [message for message in sent if message.HasField("frame")]
        assert sorted(answered) == list(range(len(frames)))


@over_a_gateway
@given(data=st.binary() | st.sampled_from(corpus("message")).map(lambda path: path.read_bytes()))
@pytest.mark.parametrize("method", ["Segment", "GetServerInfo"])
def test_bytes_that_may_be_no_message(channel: grpc.Channel, method: str, data: bytes) -> None:
    call = channel.unary_unary(f"/nuclei.v1.Segmentation/{method}")
    try:
        call(data, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        check_refusal(error)


@over_a_gateway
@given(sent=st.lists(st.binary(), max_size=3))
def test_streams_of_bytes(channel: grpc.Channel, sent: list[bytes]) -> None:
    call = channel.stream_stream("/nuclei.v1.Segmentation/SegmentStream")
    try:
        for answer in call(iter(sent), timeout=TIMEOUT_S):
            check_outcome(pb.SegmentStreamResponse.FromString(answer))
    except grpc.RpcError as error:
        check_refusal(error)


def test_bad_messages_leave_nothing_behind(gateway: Any, channel: grpc.Channel) -> None:
    """Memory, threads and files are as before, even after many bad frames."""
    stub = SegmentationStub(channel)
    bad = [pb.SegmentRequest(frame=pb.Frame(encoded=p.read_bytes())) for p in corpus("decoding")]
    raw = pb.RawPixels(data=bytes(2**20), height=2**10, width=2**9, pixel_type=9)
    bad.append(pb.SegmentRequest(frame=pb.Frame(raw=raw)))

    def measure() -> tuple[int, int, int]:
        for turn in range(LEAK_ROUNDS):
            with pytest.raises(grpc.RpcError):
                stub.Segment(bad[-1], timeout=TIMEOUT_S)
            try:
                stub.Segment(bad[turn % len(bad)], timeout=TIMEOUT_S)
            except grpc.RpcError as error:
                check_refusal(error)
        family = [process for process in psutil.Process(gateway.process.pid).children()]
        return (
            sum(process.memory_info().rss for process in family),
            sum(process.num_threads() for process in family),
            sum(process.num_fds() for process in family),
        )

    before, after = measure(), measure()
    assert after[0] - before[0] < LEAK_BYTES
    assert after[1] <= before[1]
    assert after[2] <= before[2]
