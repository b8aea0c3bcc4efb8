"""One trace from the caller's span through the gateway into Triton, at a real OTLP receiver."""

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from nuclei.client import Client
from nuclei.process.ports import free_ports
from nuclei.v1 import segmentation_pb2 as pb
from nuclei.v1.segmentation_pb2_grpc import SegmentationStub
from serving.triton.server import TritonServer
from tests.monitoring.prometheus import Prometheus, running_prometheus
from tests.shipped import GRAPH, NETWORK

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from traces import Span, TraceReceiver, tree

CALLER = "cd" * 8
STAGES = ["wait", "decode", "tile", "infer", "postprocess", "measure", "quality", "encode"]
CALL = "inference.GRPCInferenceService/ModelInfer"
STEPS = {"preprocess", NETWORK}


@pytest.fixture(scope="module")
def receiver() -> Iterator[TraceReceiver]:
    with TraceReceiver() as running:
        yield running


@pytest.fixture(scope="module")
def traced(
    receiver: TraceReceiver,
    repository: Path,
    run_gateway: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    """A gateway and its Triton, which send their spans to the receiver."""
    folder = tmp_path_factory.mktemp("traced")
    (metrics_port,) = free_ports(1)
    triton = TritonServer(
        repository,
        folder,
        metrics_port=metrics_port,
        traces=receiver.endpoint,
    )
    with (
        triton,
        run_gateway(
            folder,
            triton.address,
            NUCLEI_TRACES=receiver.endpoint,
            # Of no concern for an address that is named.
            http_proxy="http://127.0.0.1:9",
        ) as gateway,
    ):
        gateway.wait_ready()
        yield gateway


def traceparent(trace_id: str, sampled: bool = True) -> str:
    return f"00-{trace_id}-{CALLER}-{'01' if sampled else '00'}"


def http_frame(gateway: Any, frame: Path, parent: str) -> None:
    headers = {"traceparent": parent, "X-Request-ID": "traced-1"}
    answer = httpx.post(
        f"{gateway.url}/v1/segment", content=frame.read_bytes(), headers=headers, timeout=60
    )
    assert answer.status_code == 200


def grpc_frame(gateway: Any, frame: Path, parent: str) -> None:
    request = pb.SegmentRequest(frame=pb.Frame(encoded=frame.read_bytes()), request_id="traced-1")
    with grpc.insecure_channel(gateway.grpc_address) as channel:
        SegmentationStub(channel).Segment(request, metadata=(("traceparent", parent),), timeout=60)


def stream_frame(gateway: Any, frame: Path, parent: str) -> None:
    request = pb.SegmentRequest(frame=pb.Frame(encoded=frame.read_bytes()), request_id="traced-1")
    message = pb.SegmentStreamRequest(frame=pb.StreamFrame(request=request))
    with grpc.insecure_channel(gateway.grpc_address) as channel:
        call = SegmentationStub(channel).SegmentStream
        (answer,) = call(iter([message]), metadata=(("traceparent", parent),), timeout=60)
    assert answer.WhichOneof("outcome") == "result"


def wait_trace(
    receiver: TraceReceiver, trace_id: str, names: set[str], seconds: float = 30
) -> list[Span]:
    """The trace, once it has these spans; what has arrived of it when the time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        spans = receiver.trace(trace_id)
        if names <= {span.name for span in spans}:
            break
        time.sleep(0.1)
    return spans


def whole_trace(
    receiver: TraceReceiver, names: set[str], send: Callable[[str], None]
) -> tuple[str, list[Span]]:
    """(id, spans) of the first trace with these spans: Triton misses the context of a few."""
    for _ in range(4):
        trace_id = secrets.token_hex(16)
        send(traceparent(trace_id))
        spans = wait_trace(receiver, trace_id, names, 12)
        if names <= {span.name for span in spans}:
            return trace_id, spans
    pytest.fail(f"expected {names}\n{tree(spans)}")


def of_request(receiver: TraceReceiver, request_id: str) -> set[str]:
    """The traces of a request; spans of earlier ones may still arrive."""
    return {
        span.trace_id
        for span in receiver.spans
        if span.attributes.get("nuclei.request_id") == request_id
    }


@pytest.mark.parametrize(
    ("send", "name"),
    [
        (http_frame, "POST /v1/segment"),
        (grpc_frame, "nuclei.v1.Segmentation/Segment"),
        (stream_frame, "nuclei.v1.Segmentation/SegmentStream"),
    ],
)
def test_one_trace_from_the_caller_to_the_steps_of_triton(
    traced: Any,
    receiver: TraceReceiver,
    version: str,
    fluorescence: Path,
    send: Callable[[Any, Path, str], None],
    name: str,
) -> None:
    trace_id, spans = whole_trace(
        receiver,
        {name, *STAGES, CALL, GRAPH, *STEPS},
        lambda parent: send(traced, fluorescence, parent),
    )
    by_id = {span.span_id: span for span in spans}

    def path(span: Span) -> list[str]:
        """Names from the outermost span to this one."""
        above = by_id.get(span.parent_id)
        return [*(path(above) if above else [span.parent_id]), span.name]

    paths = [path(span) for span in spans]
    assert [CALLER, name] in paths
    assert [each[2] for each in paths if each[:2] == [CALLER, name] and len(each) == 3] == STAGES
    assert paths.count([CALLER, name, "infer", CALL]) == 1
    for step in STEPS:
        (found,) = [each for each in paths if each[-1] == step]
        assert found[:4] == [CALLER, name, "infer", CALL]
        assert GRAPH in found
    assert {span.service for span in spans} == {"nuclei-gateway", "triton"}
    assert not [span for span in spans if span.error]
    (request,) = [span for span in spans if span.name == name]
    assert request.attributes["nuclei.request_id"] == "traced-1"
    assert request.attributes["nuclei.model_version"] == version
    assert request.attributes["nuclei.method"] == "watershed"
    assert request.attributes["nuclei.doubtful"] == []
    assert 0 < float(request.attributes["nuclei.quality.coverage"]) < 1
    assert "nuclei.quality.previous_agreement" not in request.attributes
    assert f"request_id=traced-1 trace_id={trace_id}" in traced.process.last_lines(100)


@pytest.fixture(scope="module")
def prometheus(traced: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A real Prometheus, which scrapes the gateway."""
    folder = tmp_path_factory.mktemp("prometheus")
    target = traced.url.removeprefix("http://")
    (folder / "prometheus.yml").write_text(
        "scrape_configs:\n"
        "- job_name: gateway\n"
        "  scrape_interval: 1s\n"
        f"  static_configs: [{{targets: ['{target}']}}]\n"
    )
    with running_prometheus(folder, os.environ) as running:
        yield running


@pytest.mark.parametrize("request_id", ["exemplary-1", "x" * 128], ids=len)
def test_metrics_logs_and_traces_name_the_same_request(
    traced: Any,
    receiver: TraceReceiver,
    prometheus: Prometheus,
    fluorescence: Path,
    request_id: str,
) -> None:
    """From a stored exemplar to the span and the line of the log; an id may be too long for it."""
    trace_id = secrets.token_hex(16)
    headers = {"traceparent": traceparent(trace_id), "X-Request-ID": request_id}
    url = f"{traced.url}/v1/segment"
    httpx.post(url, content=fluorescence.read_bytes(), headers=headers, timeout=60)
    deadline = time.monotonic() + 30
    while not (found := [each for each in stored(prometheus) if each["trace_id"] == trace_id]):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    named = {"request_id": request_id} if len(request_id) < 79 else {}
    assert found[0] == {"trace_id": trace_id, **named}
    spans = wait_trace(receiver, trace_id, {"POST /v1/segment"})
    (span,) = (span for span in spans if span.name == "POST /v1/segment")
    assert span.attributes["nuclei.request_id"] == request_id
    assert f"request_id={request_id} trace_id={trace_id}" in traced.process.last_lines(100)


def stored(prometheus: Prometheus) -> list[dict[str, str]]:
    """The exemplars of requests of the last minutes."""
    found = prometheus.exemplars("nuclei_request_seconds_bucket", time.time() - 600)
    return [one["labels"] for series in found for one in series["exemplars"]]


def test_failed_frame_is_marked_with_its_error(traced: Any, receiver: TraceReceiver) -> None:
    trace_id = "d4" * 16
    answer = httpx.post(
        f"{traced.url}/v1/segment", content=b"x", headers={"traceparent": traceparent(trace_id)}
    )
    assert answer.status_code == 422
    spans = wait_trace(receiver, trace_id, {"POST /v1/segment", "decode"})
    failed = {span.name: span for span in spans}
    for name in ("POST /v1/segment", "decode"):
        assert failed[name].error
        assert failed[name].attributes["error.type"] == "InvalidImage"


def test_caller_without_a_trace_gets_one_and_an_unsampled_one_none(
    traced: Any, receiver: TraceReceiver, fluorescence: Path
) -> None:
    unsampled = "e5" * 16
    grpc_frame(traced, fluorescence, traceparent(unsampled, sampled=False))
    with Client(traced.grpc_address) as client:
        client.segment(fluorescence, request_id="of-nobody")
    deadline = time.monotonic() + 30
    while not (new := of_request(receiver, "of-nobody")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not receiver.trace(unsampled)
    (trace_id,) = new
    spans = wait_trace(receiver, trace_id, {"nuclei.v1.Segmentation/Segment", *STAGES})
    assert {"nuclei.v1.Segmentation/Segment", *STAGES} <= {span.name for span in spans}


def test_hostile_traceparent_is_ignored(traced: Any, fluorescence: Path) -> None:
    for parent in ("", "00-0-0-0", "x" * 5000, f"00-{'0' * 32}-{CALLER}-01"):
        grpc_frame(traced, fluorescence, parent)


def test_names_of_spans_are_bounded(traced: Any, receiver: TraceReceiver) -> None:
    """No HTTP spans of BentoML's besides ours, and none for unknown paths."""
    for number in range(5):
        httpx.get(f"{traced.url}/nothing/{number}")
    httpx.get(f"{traced.url}/v1/models")
    time.sleep(6)  # longer than spans wait to be sent
    ours = {span.name for span in receiver.spans if span.service == "nuclei-gateway"}
    assert ours <= {
        "POST /v1/segment",
        "nuclei.v1.Segmentation/Segment",
        "nuclei.v1.Segmentation/SegmentStream",
        CALL,
        *STAGES,
    }


def test_dead_collector_costs_nothing_and_is_reported_once(
    triton: TritonServer, run_gateway: Callable[..., Any], tmp_path: Path, fluorescence: Path
) -> None:
    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}/v1/traces"
    with run_gateway(tmp_path, triton.address, NUCLEI_TRACES=endpoint) as gateway:
        gateway.wait_ready()
        with Client(gateway.grpc_address) as client:
            until = time.monotonic() + 14
            while time.monotonic() < until:
                client.segment(fluorescence, timeout_s=5)
        log = gateway.process.log.read_text()
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 20
    assert log.count("lost=True") == 1
    assert "Traceback" not in log
    others = [line for line in log.splitlines() if " frame " not in line]
    assert len(others) < 30, others
