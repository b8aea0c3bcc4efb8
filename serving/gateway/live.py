"""What the streams of the gateway do now, for those who watch; without them it costs nothing."""

import asyncio
import base64
import itertools
import json
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nuclei.client.acquisition import FrameIndex
from nuclei.errors import NucleiError, Overloaded
from nuclei.formats.overlay import COLOURS, draw_outlines, stretched
from nuclei.imaging.images import Frame
from nuclei.quoting import sentence
from nuclei.results.segmentation import Segmentation

MAX_WATCHERS = 16
# Of one watcher, who then learns how many were left out.
MAX_UNREAD = 64
# Longer side of a picture, pixels.
PICTURE_PX = 360
# Of one position: a person sees no more, and numbers come of every frame.
PICTURE_EVERY_S = 0.1
# Positions whose last picture is remembered, for that.
MAX_POSITIONS = 4096
# A line that says nothing, so that proxies and the watcher know that the other side is there.
HEARTBEAT_S = 10.0
RETRY_S = 5.0


@dataclass(eq=False)
class _Watcher:
    unread: deque[bytes] = field(default_factory=lambda: deque(maxlen=MAX_UNREAD))
    left_out: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, event: bytes) -> None:
        self.left_out += len(self.unread) == MAX_UNREAD
        self.unread.append(event)
        self.arrived.set()


class Live:
    """Tells watchers of each frame of every stream. It belongs to one event loop."""

    def __init__(self) -> None:
        self._watchers: set[_Watcher] = set()
        self._shown: dict[tuple[str, int], float] = {}
        self._numbers = itertools.count(1)
        self._closed = False

    def stream(self) -> "LiveStream":
        """What one stream tells of its frames."""
        return LiveStream(self, str(next(self._numbers)))

    def close(self) -> None:
        """Let all watchers go."""
        self._closed = True
        for watcher in self._watchers:
            watcher.arrived.set()

    def events(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events from now on: one for each frame, and now and then a comment.

        Raises:
            Overloaded: there are too many watchers.
        """
        if len(self._watchers) >= MAX_WATCHERS:
            raise Overloaded(f"{MAX_WATCHERS} watch already; close another live view", RETRY_S)
        return self._told()

    async def _told(self) -> AsyncGenerator[bytes, None]:
        watcher = _Watcher()
        self._watchers.add(watcher)
        try:
            yield b": watching\n\n"
            while not self._closed:
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        await watcher.arrived.wait()
                except TimeoutError:
                    yield b": still here\n\n"
                watcher.arrived.clear()
                if watcher.left_out:
                    yield _event({"kind": "left_out", "frames": watcher.left_out})
                    watcher.left_out = 0
                while watcher.unread:
                    yield watcher.unread.popleft()
        finally:
            self._watchers.discard(watcher)

    def _wants_picture(self, stream: str, index: FrameIndex) -> bool:
        if not self._watchers:
            return False
        place, now = (stream, index.position), time.monotonic()
        if now - self._shown.get(place, -PICTURE_EVERY_S) < PICTURE_EVERY_S:
            return False
        if len(self._shown) >= MAX_POSITIONS:
            self._shown.clear()
        self._shown[place] = now
        return True

    def _tell(self, event: dict[str, Any]) -> None:
        if self._watchers:
            told = _event(event)
            for watcher in self._watchers:
                watcher.send(told)


class LiveStream:
    """The frames of one stream."""

    def __init__(self, live: Live, name: str) -> None:
        self._live = live
        self._name = name

    def frame(self, index: FrameIndex) -> "LiveFrame":
        """A frame that has arrived."""
        return LiveFrame(self._live, self._name, index, time.monotonic())


@dataclass
class LiveFrame:
    """A frame of a stream, until its answer is known.

    Attributes:
        live: whom it is told.
        stream: name of its stream.
        index: its place in the acquisition.
        arrived_s: when, on the monotonic clock.
        found: what is told of its nuclei; None as long as nobody watches.
    """

    live: Live
    stream: str
    index: FrameIndex
    arrived_s: float
    found: dict[str, Any] | None = None

    def segmented(self, segmentation: Segmentation, frame: Frame) -> None:
        """Note the result; makes a picture of it if somebody is to see one. Runs in any thread."""
        if not self.live._watchers:
            return
        self.found = {
            "count": len(segmentation.nuclei),
            "model": segmentation.model,
            "version": segmentation.version,
            "warnings": segmentation.warnings,
        }
        if self.live._wants_picture(self.stream, self.index):
            jpeg = picture(frame, segmentation)
            self.found["picture"] = base64.b64encode(jpeg).decode()

    def answered(self) -> None:
        """Tell of the result."""
        if self.found is not None:
            self._tell("frame", **self.found)

    def skipped(self, reason: str) -> None:
        """Tell that it was skipped."""
        self._tell("skipped", reason=reason)

    def failed(self, error: NucleiError) -> None:
        """Tell that it could not be segmented."""
        self._tell("failed", error=type(error).__name__, detail=sentence(error))

    def _tell(self, kind: str, **what: Any) -> None:
        index = self.index
        self.live._tell(
            {
                "kind": kind,
                "stream": self.stream,
                "acquisition": index.acquisition_uid,
                **{name: getattr(index, name) for name in ("position", "t", "c", "z")},
                "ms": round((time.monotonic() - self.arrived_s) * 1e3, 1),
                **what,
            }
        )


def picture(frame: Frame, segmentation: Segmentation) -> bytes:
    """A small JPEG of a frame with the outlines of its nuclei."""
    height, width, channels = frame.pixels.shape
    shrink = min(1.0, PICTURE_PX / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    pixels: NDArray[Any] = cv2.resize(frame.pixels, size, interpolation=cv2.INTER_AREA)
    pixels = pixels.reshape(size[1], size[0], channels)
    small = replace(frame, pixels=pixels, intensity_range=segmentation.intensity_range)
    rows = (np.arange(size[1]) + 0.5) * height / size[1]
    columns = (np.arange(size[0]) + 0.5) * width / size[0]
    labels = segmentation.labels[np.ix_(rows.astype(int), columns.astype(int))]
    drawn = stretched(small)
    draw_outlines(drawn, labels, COLOURS[:1])
    _, data = cv2.imencode(".jpg", drawn[:, :, ::-1], (cv2.IMWRITE_JPEG_QUALITY, 80))
    return data.tobytes()


def _event(content: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % json.dumps(content).encode()
