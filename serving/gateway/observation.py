"""What is measured, traced and logged of every request, for every protocol."""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import grpc
from numpy.typing import NDArray
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from nuclei.client.messages import PROBE_METADATA
from nuclei.errors import EngineFailed, EngineUnavailable, InternalError, NucleiError
from nuclei.inference.pipeline import Stopwatch
from nuclei.quality.reference import QualityReference
from nuclei.quoting import sentence
from nuclei.results.quality import Quality
from nuclei.results.segmentation import Segmentation
from serving import tracing
from serving.gateway import metrics
from serving.logs import Event, Value

logger = logging.getLogger(__name__)

Protocol = Literal["grpc", "stream", "http"]

# What a caller learns of an unexpected exception.
UNEXPECTED = "the service failed; its log says why"
# Instead of a status, for a frame that its stream skipped.
SKIPPED = "SKIPPED"
# Instead of a protocol, for a frame of `nuclei probe`.
PROBE = "probe"
# OpenMetrics allows so many characters in the names and values of an exemplar's labels.
EXEMPLAR_CHARACTERS = 128

# Names and attributes of the request's span, by OpenTelemetry's conventions for RPC and HTTP.
_RPC = {"rpc.system": "grpc", "rpc.service": "nuclei.v1.Segmentation"}
_SPANS: dict[Protocol, tuple[str, dict[str, str]]] = {
    "grpc": ("nuclei.v1.Segmentation/Segment", _RPC | {"rpc.method": "Segment"}),
    "stream": ("nuclei.v1.Segmentation/SegmentStream", _RPC | {"rpc.method": "SegmentStream"}),
    "http": ("POST /v1/segment", {"http.request.method": "POST", "http.route": "/v1/segment"}),
}


class Observation(Stopwatch):
    """One request, filled in as it proceeds.

    Attributes:
        protocol: by which it arrived, or `probe`.
        request_id: its name in the log.
        graph: the graph that was requested (a model, or its `_tta`), once it is known to exist.
        version: the version that answered.
        method: how the model's answers are post-processed, such as `watershed`.
        frame: height x width x channels and dtype of the frame.
        pixels: height x width; 0 until they are known.
        nuclei: number of nuclei found.
        group: of the frame, `grey` or `colour`.
        quality: measures of the frame, once it is segmented.
        doubtful: names of those that made a warning.
        reference: what the version measures quality against; None when it was not calibrated.
        as_tuned: whether the caller left the model as it was tuned.
        bytes_in: length of the frame as it was received.
        bytes_out: length of the result as it is sent.
        begun_s: when an answer that is made while it is sent was begun, on the performance counter;
            None for others.
        stage_ms: time of each step, milliseconds.
    """

    def __init__(self, protocol: str, span: trace.Span) -> None:
        """Args: protocol: as above; span: of the request, the parent of those of its steps."""
        super().__init__()
        self.protocol = protocol
        self.request_id = ""
        self.graph = ""
        self.version = ""
        self.method = ""
        self.frame = ""
        self.pixels = 0
        self.nuclei = 0
        self.group = ""
        self.quality = Quality()
        self.doubtful: tuple[str, ...] = ()
        self.reference: QualityReference | None = None
        self.as_tuned = True
        self.bytes_in = 0
        self.bytes_out = 0
        self.begun_s: float | None = None
        self._context = trace.set_span_in_context(span)

    def note_frame(self, pixels: NDArray[Any]) -> None:
        """Args: pixels: [H, W, C]."""
        height, width, _ = pixels.shape
        self.frame = "x".join(map(str, pixels.shape)) + f":{pixels.dtype}"
        self.pixels = height * width

    def note_result(self, segmentation: Segmentation) -> None:
        self.version = segmentation.version
        self.nuclei = len(segmentation.nuclei)
        self.quality = segmentation.quality or Quality()
        self.doubtful = segmentation.doubtful
        self.group = segmentation.group

    def note_begun(self) -> None:
        self.begun_s = time.perf_counter()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Time a step, and make a span of it; may run in any thread."""
        with tracing.spanned(stage, {}, self._context), super().timed(stage):
            yield


def counted_as(protocol: Protocol, carrier: Mapping[str, str]) -> str:
    """The protocol of a request in metrics and in the log: that of probes is `probe`.

    Args:
        protocol: by which it arrived.
        carrier: its HTTP headers or gRPC metadata.
    """
    return PROBE if PROBE_METADATA in carrier else protocol


class Skipped(Exception):
    """A frame was skipped in favour of others; the message is the reason."""


@contextmanager
def only_known_errors() -> Iterator[None]:
    """Turn every exception into a NucleiError, so that no caller sees internals of the service.

    Raises:
        NucleiError: what was raised inside; InternalError for any other exception.
        Skipped: as it was raised.
    """
    try:
        yield
    except (NucleiError, Skipped):
        raise
    except Exception as error:
        logger.exception("unforeseen")
        raise InternalError(UNEXPECTED) from error


@contextmanager
def observed(protocol: Protocol, carrier: Mapping[str, str] | None = None) -> Iterator[Observation]:
    """Measure, trace and log the request handled inside; errors are those of `only_known_errors`.

    Args:
        protocol: by which it arrived.
        carrier: its HTTP headers or gRPC metadata, with the caller's `traceparent` if it has one.
    """
    name, attributes = _SPANS[protocol]
    carrier = carrier or {}
    context = tracing.context_of(carrier)
    with tracing.spanned(name, attributes, context, SpanKind.SERVER) as span:
        request = Observation(counted_as(protocol, carrier), span)
        started = time.perf_counter()
        error: NucleiError | None = None
        code = "OK"
        try:
            with only_known_errors():
                yield request
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except Skipped:
            code = SKIPPED
            raise
        except NucleiError as raised:
            error, code = raised, raised.grpc_status
            raise
        finally:
            # A slow caller is no slow service.
            seconds = (request.begun_s or time.perf_counter()) - started
            _describe(span, protocol, request, code, error)
            _measure(request, code, seconds, span)
            _log(request, code, seconds, span, error)


def _describe(
    span: trace.Span,
    protocol: Protocol,
    request: Observation,
    code: str,
    error: NucleiError | None,
) -> None:
    if not span.is_recording():
        return
    if protocol == "http":
        status = 200 if error is None else error.http_status
        span.set_attribute("http.response.status_code", status)
    elif code != SKIPPED:
        span.set_attribute("rpc.grpc.status_code", grpc.StatusCode[code].value[0])
    span.set_attributes(
        {
            "nuclei.request_id": request.request_id,
            "nuclei.model": request.graph,
            "nuclei.model_version": request.version,
            "nuclei.method": request.method,
            "nuclei.frame": request.frame,
            "nuclei.count": request.nuclei,
            "nuclei.doubtful": request.doubtful,
            **{f"nuclei.quality.{name}": value for name, value in _known(request.quality)},
        }
    )


def _measure(request: Observation, code: str, seconds: float, span: trace.Span) -> None:
    metrics.note_version(request.graph, request.version)
    labels = (request.graph, request.version, request.protocol)
    exemplar = _exemplar(request.request_id, span)
    size = metrics.size_of(request.pixels)
    metrics.REQUEST_SECONDS.labels(*labels, size, code).observe(seconds, exemplar)
    metrics.BYTES.labels(request.protocol, "in").inc(request.bytes_in)
    metrics.BYTES.labels(request.protocol, "out").inc(request.bytes_out)
    if code != "OK":
        return
    metrics.NUCLEI.labels(*labels).inc(request.nuclei)
    for stage, milliseconds in request.stage_ms.items():
        metrics.STAGE_SECONDS.labels(*labels, stage).observe(milliseconds / 1e3, exemplar)
    if request.protocol != PROBE and request.as_tuned:
        _measure_quality(request, exemplar)


def _measure_quality(request: Observation, exemplar: dict[str, str]) -> None:
    """Count a frame of a caller: no probe, no check of our own, no challenger's in shadow.

    Nor one whose caller adjusted the model: its result says little about the model.
    """
    labels = (request.graph, request.version)
    metrics.QUALITY_FRAMES.labels(*labels, request.group).inc()
    for name, value in _known(request.quality):
        metrics.QUALITY[name].labels(*labels).observe(value, exemplar)
    if not request.nuclei:
        metrics.EMPTY_FRAMES.labels(*labels).inc()
    for kind in request.doubtful:
        metrics.DOUBTFUL_FRAMES.labels(*labels, kind).inc()
    if request.reference is not None:
        if request.quality.estimated_score is None:
            metrics.UNKNOWN_SCORES.labels(*labels).inc()
        metrics.QUALITY_DRIFT.add(*labels, request.group, request.quality, request.reference)


def _exemplar(request_id: str, span: trace.Span) -> dict[str, str]:
    """What leads from a metric to the trace and to the log; an id that is too long is left out."""
    exemplar = {"trace_id": tracing.trace_id(span)} if span.is_recording() else {}
    room = EXEMPLAR_CHARACTERS - sum(len(name) + len(text) for name, text in exemplar.items())
    if request_id and len("request_id") + len(request_id) <= room:
        exemplar["request_id"] = request_id
    return exemplar


def _known(quality: Quality) -> list[tuple[str, float]]:
    """The measures that have a value."""
    return [(name, value) for name, value in vars(quality).items() if value is not None]


def _log(
    request: Observation, code: str, seconds: float, span: trace.Span, error: NucleiError | None
) -> None:
    fields: dict[str, Value] = {
        "request_id": request.request_id,
        "trace_id": tracing.trace_id(span),
        "protocol": request.protocol,
        "code": code,
        "model": request.graph,
        "version": request.version,
        "method": request.method,
        "frame": request.frame,
        "nuclei": request.nuclei,
        "estimated_score": _rounded(request.quality.estimated_score),
        "focus": _rounded(request.quality.focus),
        "doubtful": ",".join(request.doubtful),
        "bytes_in": request.bytes_in,
        "bytes_out": request.bytes_out,
        "total_ms": round(seconds * 1e3, 1),
        **{f"{stage}_ms": round(value, 1) for stage, value in request.stage_ms.items()},
    }
    if error is not None:
        fields |= {"error": type(error).__name__, "detail": sentence(error)}
    # Failures of the service stand out; mistakes of callers are everyday.
    serious = isinstance(error, InternalError | EngineFailed | EngineUnavailable)
    logger.log(
        logging.WARNING if serious else logging.INFO,
        Event("frame", **fields),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")
