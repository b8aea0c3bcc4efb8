"""OpenTelemetry spans: from the caller's `traceparent` through our stages into Triton."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import requests
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serving.logs import Event

logger = logging.getLogger(__name__)

SERVICE_NAME = "nuclei-gateway"
TRACE_HEADERS = ("traceparent", "tracestate")
EXPORT_TIMEOUT_S = 3.0

_propagator = TraceContextTextMapPropagator()
# Does nothing until `start_tracing` has set a provider.
_tracer = trace.get_tracer("nuclei")


def start_tracing(endpoint: str, version: str) -> TracerProvider:
    """Send the spans of this process to a collector; shut the provider down at the end.

    The SDK's own settings apply too, `OTEL_TRACES_SAMPLER` and `OTEL_RESOURCE_ATTRIBUTES`. Without
    them every frame is traced, unless its caller's `traceparent` says that it is not sampled.

    Args:
        endpoint: URL of the collector's OTLP/HTTP receiver, with its path.
        version: version of this software.
    """
    for name in ("exporter.otlp.proto.http.trace_exporter", "sdk._shared_internal"):
        # They log every failed batch; the exporter below logs the change only.
        logging.getLogger(f"opentelemetry.{name}").setLevel(logging.CRITICAL)
    resource = Resource.create({"service.name": SERVICE_NAME, "service.version": version})
    provider = TracerProvider(resource=resource)
    session = requests.Session()
    # The collector is named: proxies of the environment are for the internet.
    session.trust_env = False
    exporter = OTLPSpanExporter(endpoint, timeout=EXPORT_TIMEOUT_S, session=session)
    provider.add_span_processor(BatchSpanProcessor(_OutageLoggingExporter(exporter, endpoint)))
    trace.set_tracer_provider(provider)
    return provider


def context_of(carrier: Mapping[str, str]) -> Context:
    """The caller's context, of its HTTP headers or gRPC metadata; empty when there is none."""
    return _propagator.extract({key: carrier[key] for key in TRACE_HEADERS if key in carrier})


def triton_headers() -> dict[str, str]:
    """Headers that carry the current span to Triton; empty when it is not recorded.

    Triton 2.51 does not find the context of a few frames in a hundred: it takes the value for a C
    string and reads on to the next zero byte. Those have no spans of Triton's.
    """
    carrier: dict[str, str] = {}
    # Triton would trace what carries a context, sampled or not.
    if trace.get_current_span().is_recording():
        _propagator.inject(carrier)
    return carrier


def trace_id(span: Span) -> str:
    """Hexadecimal; empty when there is no trace, neither the caller's nor ours."""
    context = span.get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""


@contextmanager
def spanned(
    name: str,
    attributes: Mapping[str, str | int],
    context: Context | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
) -> Iterator[Span]:
    """A span around what happens inside, the current one there.

    Args:
        name: one of a few: no part of it comes from the caller.
        attributes: known at the start.
        context: of the parent; None is the current one.
        kind: whether it serves a request, sends one, or neither.
    """
    span = _tracer.start_span(name, context, kind, attributes)
    try:
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield span
    except BaseException as error:
        # The class only: a message may contain paths of this machine.
        span.set_status(StatusCode.ERROR)
        span.set_attribute("error.type", type(error).__name__)
        raise
    finally:
        span.end()


class _OutageLoggingExporter(SpanExporter):
    """An exporter that logs when the collector stops answering, and when it answers again."""

    def __init__(self, exporter: SpanExporter, endpoint: str) -> None:
        self._exporter = exporter
        self._endpoint = endpoint
        self._result = SpanExportResult.SUCCESS

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is not self._result:
            lost = result is SpanExportResult.FAILURE
            logger.warning(Event("traces", endpoint=self._endpoint, lost=lost))
            self._result = result
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
