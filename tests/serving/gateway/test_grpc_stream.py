"""SegmentStream and admission on the wire: a real gateway and a real Triton."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import grpc
import httpx
import numpy as np
import pytest

from nuclei.client import Client
from nuclei.errors import FrameTooLarge, NucleiError, Overloaded
from nuclei.v1 import segmentation_pb2 as pb
from nuclei.v1.segmentation_pb2_grpc import SegmentationStub
from serving.triton.server import TritonServer

RunGateway = Callable[..., Any]
StartGateway = Callable[..., Any]
METHOD = "/nuclei.v1.Segmentation/"


@pytest.fixture
def stub(gateway: Any) -> Iterator[SegmentationStub]:
    with grpc.insecure_channel(gateway.grpc_address) as channel:
        yield SegmentationStub(channel)


def frame(side: int = 64, position: int = 0, **options: Any) -> pb.SegmentStreamRequest:
    timeout_ms = options.pop("timeout_ms", 0)
    pixels = np.random.default_rng(side).integers(0, 4000, (side, side)).astype("<u2")
    message = pb.SegmentStreamRequest()
    message.frame.timeout_ms = timeout_ms
    message.frame.request.MergeFrom(pb.SegmentRequest(**options))
    raw = message.frame.request.frame.raw
    raw.data, raw.height, raw.width = pixels.tobytes(), side, side
    raw.pixel_type = pb.PIXEL_TYPE_UINT16
    message.frame.request.frame.index.position = position
    return message


def settings(**values: Any) -> pb.SegmentStreamRequest:
    return pb.SegmentStreamRequest(settings=pb.StreamSettings(**values))


def held(gateway: Any) -> dict[str, float]:
    """Frames and bytes that the gateway holds, and frames in work."""
    lines = httpx.get(f"{gateway.url}/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    names = ("nuclei_frames_in_flight", "nuclei_in_flight_bytes", "nuclei_frames_in_work")
    return {name: float(values[name]) for name in names}


def wait_idle(gateway: Any, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while any(held(gateway).values()):
        assert time.monotonic() < deadline, held(gateway)
        time.sleep(0.05)


def status_of(call: Any) -> tuple[Any, str]:
    """(status, name of the error) of a stream that fails."""
    with pytest.raises(grpc.RpcError) as raised:
        list(call)
    metadata: dict[str, Any] = dict(raised.value.trailing_metadata())
    return raised.value.code(), metadata.get("nuclei-error", "")


def test_count_alone_is_a_short_answer(stub: SegmentationStub, fluorescence: Path) -> None:
    message = pb.SegmentStreamRequest()
    message.frame.request.frame.encoded = fluorescence.read_bytes()
    message.frame.request.outputs.append(pb.OUTPUT_COUNT)
    (answer,) = stub.SegmentStream(iter([message]))
    assert answer.result.count > 10
    assert answer.ByteSize() < 450


def test_unset_fields_stay_unset(stub: SegmentationStub) -> None:
    message = frame()
    message.frame.request.frame.ClearField("index")
    (answer,) = stub.SegmentStream(iter([settings(), message]))
    assert answer.WhichOneof("outcome") == "result"
    assert not answer.HasField("index")
    assert not answer.HasField("stage_position")
    assert not answer.result.request_id
    assert answer.request_id


def test_late_settings_end_the_call(stub: SegmentationStub) -> None:
    call = stub.SegmentStream(iter([frame(), settings()]))
    assert status_of(call) == (grpc.StatusCode.INVALID_ARGUMENT, "InvalidOption")


def test_second_settings_end_the_call(stub: SegmentationStub) -> None:
    call = stub.SegmentStream(iter([settings(), settings()]))
    assert status_of(call) == (grpc.StatusCode.INVALID_ARGUMENT, "InvalidOption")


def test_unknown_policy_ends_the_call(stub: SegmentationStub) -> None:
    call = stub.SegmentStream(iter([settings(overflow=77)]))
    assert status_of(call) == (grpc.StatusCode.INVALID_ARGUMENT, "InvalidOption")


def test_message_that_holds_nothing_ends_the_call(stub: SegmentationStub) -> None:
    call = stub.SegmentStream(iter([pb.SegmentStreamRequest()]))
    assert status_of(call) == (grpc.StatusCode.INVALID_ARGUMENT, "InvalidOption")


@pytest.mark.parametrize("method", ["Segment", "SegmentStream", "GetServerInfo"])
def test_bytes_that_are_no_message_are_refused(gateway: Any, method: str) -> None:
    with grpc.insecure_channel(gateway.grpc_address) as channel:
        call = channel.stream_stream(METHOD + method)(iter([b"\xff\xff\xff"]))
        assert status_of(call) == (grpc.StatusCode.INVALID_ARGUMENT, "InvalidOption")


def test_call_without_a_message_is_refused(gateway: Any) -> None:
    with grpc.insecure_channel(gateway.grpc_address) as channel:
        call = channel.stream_stream(METHOD + "Segment")(iter([]))
        assert status_of(call) == (grpc.StatusCode.INVALID_ARGUMENT, "InvalidOption")


def test_time_of_a_frame_is_its_own(stub: SegmentationStub) -> None:
    requests = [frame(1024, 1, timeout_ms=1), frame(64, 2)]
    answers = {answer.sequence: answer for answer in stub.SegmentStream(iter(requests))}
    assert answers[0].error.name == "DeadlineExceeded"
    assert answers[0].error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert not answers[0].error.HasField("retry_after_ms")
    assert answers[1].HasField("result")


def test_cancelled_call_ends_its_work(gateway: Any, stub: SegmentationStub) -> None:
    call = stub.SegmentStream(frame(1024, number) for number in itertools.count())
    next(call)
    assert held(gateway)["nuclei_frames_in_flight"] > 0
    call.cancel()
    wait_idle(gateway)


def test_client_that_vanishes_leaves_nothing(gateway: Any) -> None:
    code = f"""
import numpy as np
from nuclei.client import Client
with Client("{gateway.grpc_address}") as client:
    while True:
        for outcome in client.stream(np.zeros((1024, 1024), np.uint16) for _ in range(1000)):
            print(outcome.sequence, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        caller.stdout.readline()
        caller.kill()
    wait_idle(gateway)


def test_frames_are_measured_as_stream(gateway: Any, stub: SegmentationStub) -> None:
    list(stub.SegmentStream(iter([frame()])))
    metrics = httpx.get(f"{gateway.url}/metrics").text
    counted = [
        line
        for line in metrics.splitlines()
        if line.startswith("nuclei_request_seconds_count") and 'protocol="stream"' in line
    ]
    assert any('code="OK"' in line and 'model="unet"' in line for line in counted)
    assert 'stage="wait"' in metrics


def test_server_info_says_what_it_holds(gateway: Any, stub: SegmentationStub) -> None:
    limits = stub.GetServerInfo(pb.GetServerInfoRequest()).limits
    assert (limits.max_frames_in_flight, limits.max_bytes_in_flight) == (64, 3 * 2**30)
    info = httpx.get(f"{gateway.url}/v1/models").json()
    assert (info["max_frames_in_flight"], info["max_bytes_in_flight"]) == (64, 3 * 2**30)


NARROW = {
    "NUCLEI_MAX_FRAMES_IN_FLIGHT": "2",
    "NUCLEI_MAX_FRAMES_IN_WORK": "1",
    "NUCLEI_READER_TIMEOUT_S": "1",
    "NUCLEI_DRAIN_S": "5",
}


@pytest.fixture(scope="module")
def narrow(
    triton: TritonServer, run_gateway: RunGateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A gateway that holds two frames, and works on one; idle between the tests."""
    with run_gateway(tmp_path_factory.mktemp("narrow"), triton.address, **NARROW) as gateway:
        gateway.wait_ready()
        yield gateway


def test_overload_is_refused_at_once_and_blocked_streams_lose_nothing(
    narrow: Any, fluorescence: Path
) -> None:
    refused: list[Overloaded] = []

    patience = time.monotonic() + 60

    def hammer(number: int) -> None:
        with Client(narrow.grpc_address) as client:
            # Until HTTP has been refused as well, which needs others to be there.
            while not (refused and refused_http) and time.monotonic() < patience:
                started = time.monotonic()
                try:
                    client.segment(fluorescence, outputs=[])
                except Overloaded as error:
                    refused.append(error)
                    assert time.monotonic() - started < 1
                    time.sleep(0.02)

    def http() -> None:
        while not refused_http and time.monotonic() < patience:
            reply = httpx.post(f"{narrow.url}/v1/segment", content=b"x" * 100)
            if reply.status_code == 429:
                refused_http.append(reply)

    refused_http: list[httpx.Response] = []
    with ThreadPoolExecutor(5) as pool:
        work = [pool.submit(hammer, number) for number in range(4)]
        work.append(pool.submit(http))
        with Client(narrow.grpc_address) as client:
            outcomes = list(client.stream([fluorescence] * 6, outputs=[]))
        for one in work:
            one.result(60)
    assert [outcome.error for outcome in outcomes] == [None] * 6
    assert refused
    assert all(0 < error.retry_after_s <= 30 for error in refused)
    assert int(refused_http[0].headers["Retry-After"]) >= 1
    assert 'nuclei_rejected_total{protocol="grpc"' in httpx.get(f"{narrow.url}/metrics").text
    wait_idle(narrow)


def test_refusal_comes_before_the_frame_is_received(narrow: Any, histology: Path) -> None:
    def segment() -> bool:
        # Each by a connection of its own.
        url = f"{narrow.url}/v1/segment?tta=true"
        return httpx.post(url, content=histology.read_bytes(), timeout=60).status_code == 200

    with grpc.insecure_channel(narrow.grpc_address) as other, ThreadPoolExecutor(3) as pool:
        silent = threading.Event()

        def say_nothing() -> Iterator[bytes]:
            silent.wait(30)
            yield from ()

        work = [pool.submit(segment) for _ in range(2)]
        deadline = time.monotonic() + 5
        while held(narrow)["nuclei_frames_in_flight"] < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        # This message is never sent, and the refusal still comes.
        refused = other.stream_stream(METHOD + "Segment")(say_nothing())
        status = pool.submit(status_of, refused).result(5)
        assert status == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Overloaded")
        pushback = dict(refused.trailing_metadata())["grpc-retry-pushback-ms"]
        assert 0 < int(pushback) <= 30000
        silent.set()
        assert all(one.result(60) for one in work)
    wait_idle(narrow)


def test_frame_that_inflates_beyond_the_memory_is_refused_before(
    triton: TritonServer, start_gateway: StartGateway
) -> None:
    gateway = start_gateway(triton.address, NUCLEI_MAX_BYTES_IN_FLIGHT=str(50 * 2**20))
    gateway.wait_ready()
    small_file = cv2.imencode(".png", np.zeros((8000, 8000), np.uint8))[1].tobytes()
    with Client(gateway.grpc_address) as client:
        with pytest.raises(FrameTooLarge, match="bytes of memory"):
            client.segment(small_file)
        assert client.segment(np.zeros((64, 64), np.uint8)).labels.shape == (64, 64)
    reply = httpx.post(f"{gateway.url}/v1/segment", content=small_file)
    assert (reply.status_code, reply.json()["title"]) == (413, "FrameTooLarge")
    wait_idle(gateway)


def test_streams_whose_frames_need_most_of_the_memory_wait_for_one_another(
    triton: TritonServer, start_gateway: StartGateway
) -> None:
    # A frame of 2 MiB takes 42 MiB while it is segmented.
    gateway = start_gateway(triton.address, NUCLEI_MAX_BYTES_IN_FLIGHT=str(44 * 2**20))
    gateway.wait_ready()
    frame = np.zeros((1024, 1024), np.uint16)

    def stream(_: int) -> list[Exception | None]:
        with Client(gateway.grpc_address) as client:
            outcomes = list(client.stream([frame] * 2, outputs=[], timeout_s=300))
        return [outcome.error for outcome in outcomes]

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(stream, range(6))) == [[None, None]] * 6
    wait_idle(gateway)


def test_too_many_streams_are_refused(narrow: Any) -> None:
    silent = threading.Event()

    def say_nothing() -> Iterator[pb.SegmentStreamRequest]:
        silent.wait(30)
        yield from ()

    with grpc.insecure_channel(narrow.grpc_address) as channel:
        stub = SegmentationStub(channel)
        calls: list[Any] = [stub.SegmentStream(say_nothing()) for _ in range(3)]
        deadline = time.monotonic() + 5
        while sum(call.done() for call in calls) < 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (refused,) = [call for call in calls if call.done()]
        assert status_of(refused) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Overloaded")
        silent.set()
        for call in calls:
            call.cancel()
    wait_idle(narrow)


def test_reader_who_takes_nothing_is_disconnected(narrow: Any, histology: Path) -> None:
    message = pb.SegmentStreamRequest()
    message.frame.request.frame.encoded = histology.read_bytes()
    message.frame.request.outputs.extend([pb.OUTPUT_LABELS, pb.OUTPUT_POLYGONS])
    sent = itertools.count()

    def endless() -> Iterator[pb.SegmentStreamRequest]:
        while True:
            next(sent)
            yield message

    with grpc.insecure_channel(narrow.grpc_address) as channel:
        call = SegmentationStub(channel).SegmentStream(endless())
        deadline = time.monotonic() + 90
        quiet = 0
        while quiet < 3:  # gRPC itself buffers some megabytes for a client that does not read
            quiet = 0 if any(held(narrow).values()) else quiet + 1
            assert time.monotonic() < deadline, held(narrow)
            time.sleep(0.3)
        assert next(sent) < 3000
        # The connection was ended, for a status would wait behind the answers.
        assert status_of(call)[0] == grpc.StatusCode.UNAVAILABLE


def test_draining_answers_what_was_received_and_ends_the_stream(
    triton: TritonServer, start_gateway: StartGateway
) -> None:
    gateway = start_gateway(triton.address, **NARROW)
    gateway.wait_ready()
    sent = itertools.count()

    def endless() -> Iterator[pb.SegmentStreamRequest]:
        while True:
            yield frame(256, next(sent))

    with grpc.insecure_channel(gateway.grpc_address) as channel:
        call = SegmentationStub(channel).SegmentStream(endless())
        answers = [next(call), next(call)]
        pid = gateway.process.pid
        assert pid is not None
        started = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as raised:
            answers.extend(call)
        assert time.monotonic() - started < 10
        again = SegmentationStub(channel).SegmentStream(endless())
        assert status_of(again)[0] is grpc.StatusCode.UNAVAILABLE
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "shutting down" in raised.value.details()
    # All that it had taken, and none left out.
    assert all(answer.HasField("result") for answer in answers)
    assert sorted(answer.sequence for answer in answers) == list(range(len(answers)))
    while gateway.process.running:
        assert time.monotonic() - started < 15
        time.sleep(0.1)
    assert gateway.process.exit_code == 0


def test_errors_are_of_the_tree_when_triton_dies(
    own_triton: TritonServer, start_gateway: StartGateway
) -> None:
    gateway = start_gateway(own_triton.address)
    gateway.wait_ready()

    def frames() -> Iterator[np.ndarray]:
        for number in range(8):
            if number == 2:
                assert own_triton.pid is not None
                os.kill(own_triton.pid, signal.SIGKILL)
                time.sleep(0.2)
            yield np.zeros((64, 64), np.uint16)

    with Client(gateway.grpc_address) as client:
        outcomes = list(client.stream(frames(), timeout_s=5))
        assert len(outcomes) == 8
        assert all(
            outcome.segmentation or isinstance(outcome.error, NucleiError) for outcome in outcomes
        )
        assert any(outcome.error for outcome in outcomes)
    wait_idle(gateway)
