"""A small frame through a running gateway, as a caller sends it: is the service up, and right?

A microscope is silent at night, and errors among few frames are luck: so one frame a minute is sent
of which the number of nuclei is known. The gateway counts it apart from the frames of callers.
"""

import logging
import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter, Gauge, Histogram, start_http_server

from nuclei.client.acquisition import StreamFrame
from nuclei.client.connection import authorization, translated
from nuclei.client.messages import PROBE_METADATA, request_with, write_frame
from nuclei.errors import NucleiError
from nuclei.imaging.frame_options import FrameOptions
from nuclei.quoting import sentence
from nuclei.v1.segmentation_pb2_grpc import SegmentationStub

logger = logging.getLogger(__name__)

# Longest time for an answer: a frame of a tile, from a gateway that is busy.
TIMEOUT_S = 10.0
# Instead of a status, for an answer with another number of nuclei.
WRONG = "WRONG"

UP = Gauge("nuclei_probe_up", "1 when the last frame was answered rightly, else 0.")
SECONDS = Histogram(
    "nuclei_probe_seconds",
    "Time of a frame that was answered rightly, from connecting to its result.",
    buckets=(0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10),
)
FRAMES = Counter("nuclei_probe_frames", "Frames sent, by how they were answered.", ["code"])
LAST_SUCCESS = Gauge(
    "nuclei_probe_last_success_timestamp_seconds", "When a frame was last answered rightly."
)


@dataclass(frozen=True)
class ProbeFrame:
    """A frame of which it is known what is in it.

    Attributes:
        image: its pixels, or the path of an image file.
        least, most: how many nuclei a right answer has.
    """

    image: NDArray[Any] | Path
    least: int
    most: int


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        nuclei: how many there were.
        model: name and version of the model that answered.
        seconds: time from connecting to the result.
        fault: what is wrong with it; empty for a right one.
    """

    nuclei: int
    model: str
    seconds: float
    fault: str


class Probe:
    """Sends one frame at a time."""

    def __init__(
        self, connect: Callable[[], grpc.Channel], token: str, frame: ProbeFrame, model: str
    ) -> None:
        """Prepare the frame.

        Args:
            connect: a new channel to the gateway: each frame has its own, as that of a new caller.
            token: of the gateway; empty where it asks for none.
            frame: the frame.
            model: name of a model; empty for the default one.

        Raises:
            InvalidImage: the frame cannot be read.
            InvalidOption: the token or the name cannot be one.
        """
        self._connect = connect
        self._metadata = (*authorization(token), (PROBE_METADATA, "1"))
        self._frame = frame
        self._request = request_with(model, None, False, ())
        write_frame(self._request, StreamFrame(frame.image), FrameOptions())

    def send(self) -> Answer:
        """Send the frame; raises a NucleiError where there is no answer."""
        request_id = self._request.request_id = f"probe-{uuid.uuid4().hex}"
        started = time.perf_counter()
        with self._connect() as channel, translated():
            reply = SegmentationStub(channel).Segment(
                self._request, timeout=TIMEOUT_S, metadata=self._metadata
            )
        seconds = time.perf_counter() - started
        model, fault = f"{reply.model} {reply.model_version}", ""
        least, most = self._frame.least, self._frame.most
        if not least <= reply.count <= most:
            fault = (
                f"{model} found {reply.count} nuclei in the frame of the probe (request "
                f"{request_id}); expected {least} to {most}: look at the version that is served, "
                "or give --frame and --nuclei where the model is for other images"
            )
        return Answer(reply.count, model, seconds, fault)


def keep_probing(probe: Probe, every_s: float, host: str, port: int) -> None:
    """Send a frame at intervals, and show at /metrics how it went, until SIGTERM or Ctrl-C.

    Args:
        probe: what is sent.
        every_s: from one frame to the next, seconds; one that takes longer delays the next.
        host, port: where to listen; they are free.
    """
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, _end)
    start_http_server(port, host)
    due = time.monotonic()
    while True:
        _observe(probe)
        now = time.monotonic()
        due = max(due + every_s, now)
        time.sleep(due - now)


def synthetic_frame() -> ProbeFrame:
    """Twelve bright nuclei on a dark ground, as of cells with a fluorescent stain."""
    y, x = np.mgrid[:192, :256].astype(np.float64)
    image = 12 + 2 * np.sin(x / 3) * np.sin(y / 4)
    for number in range(12):
        row, column = divmod(number, 4)
        tilt = number * np.pi / 7
        dy, dx = y - (32 + 64 * row), x - (32 + 64 * column)
        along, across = dx * np.cos(tilt) + dy * np.sin(tilt), dy * np.cos(tilt) - dx * np.sin(tilt)
        distance = np.hypot(along / (15 + number % 3), across / (12 + number % 2))
        texture = 1 + 0.1 * np.sin(x / 2 + number) * np.sin(y / 2)
        image += (110 + 5 * number) * texture / (1 + np.exp(12 * (distance - 1)))
    return ProbeFrame(image.round().astype(np.uint8)[..., None], 10, 14)


def _observe(probe: Probe) -> None:
    try:
        answer = probe.send()
        code, fault = WRONG if answer.fault else "OK", answer.fault
    except NucleiError as error:
        code, fault = error.grpc_status, f"{type(error).__name__}: {sentence(error)}"
    FRAMES.labels(code).inc()
    UP.set(code == "OK")
    if code != "OK":
        logger.warning("probe failed: %s", fault)
        return
    SECONDS.observe(answer.seconds)
    LAST_SUCCESS.set_to_current_time()


def _end(number: int, frame: FrameType | None) -> None:
    """End the process from wherever it is, also while it waits for an answer."""
    raise SystemExit(0)
