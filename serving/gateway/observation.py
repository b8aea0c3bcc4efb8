"""What is measured and logged of every request, whatever protocol it came by."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from nuclei.errors import EngineFailed, EngineUnavailable, NucleiError
from nuclei.segmentation import Segmentation
from serving.gateway import metrics

logger = logging.getLogger(__name__)

Protocol = Literal["grpc", "http"]


@dataclass
class Observation:
    """One request, filled in as it proceeds.

    Attributes:
        protocol: what it came by.
        request_id: its name in the log.
        graph: the graph that was asked (a model, or its `_tta`), once the model is known to exist.
        version: the version that answered.
        frame: height x width x channels and dtype of the frame.
        nuclei: number of nuclei found.
        stage_ms: time of each step, milliseconds.
    """

    protocol: Protocol
    request_id: str = ""
    graph: str = ""
    version: str = ""
    frame: str = ""
    nuclei: int = 0
    stage_ms: dict[str, float] = field(default_factory=dict)

    def note_result(self, segmentation: Segmentation) -> None:
        self.version = segmentation.version
        self.nuclei = len(segmentation.nuclei)
        self.stage_ms |= segmentation.stage_ms

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.stage_ms[stage] = (time.perf_counter() - started) * 1e3


@contextmanager
def only_known_errors() -> Iterator[None]:
    """Make every error one of the error tree, so that no caller sees the inside of the service.

    Raises:
        NucleiError: what was raised inside; its base class for an error that nobody foresaw.
    """
    try:
        yield
    except NucleiError:
        raise
    except Exception as error:
        logger.exception("unforeseen")
        raise NucleiError("the service failed; its log says why") from error


@contextmanager
def observed(protocol: Protocol) -> Iterator[Observation]:
    """Measure and log the request handled inside; errors are those of `only_known_errors`."""
    request = Observation(protocol)
    started = time.perf_counter()
    error: NucleiError | None = None
    code = "OK"
    try:
        with only_known_errors():
            yield request
    except asyncio.CancelledError:
        code = "CANCELLED"
        raise
    except NucleiError as raised:
        error, code = raised, raised.grpc_status
        raise
    finally:
        seconds = time.perf_counter() - started
        _measure(request, code, seconds)
        _log(request, code, seconds, error)


def _measure(request: Observation, code: str, seconds: float) -> None:
    labels = (request.graph, request.version, request.protocol)
    metrics.REQUEST_SECONDS.labels(*labels, code).observe(seconds)
    if code == "OK":
        metrics.NUCLEI.labels(*labels).inc(request.nuclei)
        for stage, milliseconds in request.stage_ms.items():
            metrics.STAGE_SECONDS.labels(*labels, stage).observe(milliseconds / 1e3)


def _log(request: Observation, code: str, seconds: float, error: NucleiError | None) -> None:
    fields = {
        "request_id": request.request_id,
        "protocol": request.protocol,
        "code": code,
        "model": request.graph,
        "version": request.version,
        "frame": request.frame,
        "nuclei": request.nuclei,
        "total_ms": f"{seconds * 1e3:.1f}",
        **{f"{stage}_ms": f"{value:.1f}" for stage, value in request.stage_ms.items()},
    }
    if error is not None:
        fields |= {"error": type(error).__name__, "detail": repr(str(error))}
    # The service's own failures stand out; a caller's mistakes are everyday.
    serious = type(error) in (NucleiError, EngineFailed, EngineUnavailable)
    logger.log(
        logging.WARNING if serious else logging.INFO,
        "frame %s",
        " ".join(f"{name}={value}" for name, value in fields.items() if value != ""),
    )
