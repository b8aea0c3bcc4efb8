"""Receives the traces of a running service and prints each as a tree with durations.

    python examples/traces.py                                # listens on 127.0.0.1:4318
    NUCLEI_TRACES=http://127.0.0.1:4318/v1/traces nuclei serve

It stands where Jaeger, Tempo or an OpenTelemetry collector stands in production: all of them take
OTLP over HTTP.
"""

import argparse
import base64
import re
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PORT = 4318
# A trace is whole when nothing of it has come for this long: each exporter sends once in a while.
QUIET_S = 7.0
INDENT = "   "


@dataclass(frozen=True)
class Span:
    """One span as it was received.

    Attributes:
        trace_id, span_id, parent_id: hexadecimal; a root has an empty parent.
        service: which process made it.
        name: of the span.
        start_ns, end_ns: Unix time, nanoseconds.
        error: whether its status is an error.
        attributes: by name.
    """

    trace_id: str
    span_id: str
    parent_id: str
    service: str
    name: str
    start_ns: int
    end_ns: int
    error: bool
    attributes: dict[str, Any]

    @property
    def ms(self) -> float:
        return (self.end_ns - self.start_ns) / 1e6


class TraceReceiver:
    """An OTLP/HTTP receiver on loopback that keeps what it gets; `with` starts and stops it."""

    def __init__(self, port: int = 0) -> None:
        """Listen.

        Args:
            port: 0 for any free one.
        """
        self._spans: list[Span] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.last_arrival = time.monotonic()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1/traces"

    @property
    def spans(self) -> list[Span]:
        """What came so far."""
        with self._lock:
            return list(self._spans)

    def trace(self, trace_id: str) -> list[Span]:
        """The spans of one trace, by start."""
        found = [span for span in self.spans if span.trace_id == trace_id]
        return sorted(found, key=lambda span: span.start_ns)

    def forget(self, trace_id: str) -> None:
        with self._lock:
            self._spans = [span for span in self._spans if span.trace_id != trace_id]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver._add(_spans_of(_request(body, self.headers["Content-Type"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing of each request."""

        return Handler

    def _add(self, spans: list[Span]) -> None:
        with self._lock:
            self._spans += spans
            self.last_arrival = time.monotonic()


def _request(body: bytes, content_type: str) -> ExportTraceServiceRequest:
    """The message, of protobuf (the gateway's) or of JSON (Triton's)."""
    if content_type != "application/json":
        return ExportTraceServiceRequest.FromString(body)
    # OTLP writes ids in hexadecimal, where protobuf's own JSON has base64.
    as_base64 = re.sub(
        rb'"(traceId|spanId|parentSpanId)":\s*"([0-9a-f]*)"',
        lambda found: b'"%s":"%s"' % (found[1], base64.b64encode(bytes.fromhex(found[2].decode()))),
        body,
    )
    return json_format.Parse(as_base64, ExportTraceServiceRequest(), ignore_unknown_fields=True)


def _spans_of(request: ExportTraceServiceRequest) -> list[Span]:
    spans = []
    for resource in request.resource_spans:
        service = _attributes(resource.resource.attributes).get("service.name", "")
        spans += [
            Span(
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                service,
                span.name,
                span.start_time_unix_nano,
                span.end_time_unix_nano,
                span.status.code == span.status.STATUS_CODE_ERROR,
                _attributes(span.attributes),
            )
            for scope in resource.scope_spans
            for span in scope.spans
        ]
    return spans


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    found = getattr(value, kind)
    return [_value(each) for each in found.values] if kind == "array_value" else found


def tree(spans: list[Span]) -> str:
    """The spans of one trace as an indented tree, each with its duration and service."""
    known = {span.span_id for span in spans}
    roots = [span for span in spans if span.parent_id not in known]
    lines: list[str] = []

    def add(span: Span, depth: int) -> None:
        name = INDENT * depth + span.name + (" FAILED" if span.error else "")
        lines.append(f"{name:<64} {span.ms:8.1f} ms  {span.service}")
        for child in spans:
            if child.parent_id == span.span_id:
                add(child, depth + 1)

    for root in roots:
        add(root, 0)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=PORT)
    with TraceReceiver(parser.parse_args().port) as receiver:
        print(f"waiting for traces: NUCLEI_TRACES={receiver.endpoint}", flush=True)
        while True:
            time.sleep(1)
            if time.monotonic() - receiver.last_arrival < QUIET_S:
                continue
            for trace_id in dict.fromkeys(span.trace_id for span in receiver.spans):
                print(f"\ntrace {trace_id}\n{tree(receiver.trace(trace_id))}", flush=True)
                receiver.forget(trace_id)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print()
