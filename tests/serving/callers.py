"""Callers that send one frame after the other, and record the outcome of each."""

import io
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx
import tifffile
from numpy.typing import NDArray

from nuclei import errors
from nuclei.client import Client
from nuclei.errors import NucleiError
from nuclei.results.segmentation import Segmentation
from tests.serving.served import Served

FRAME_TIMEOUT_S = 10.0
# The longest time until a frame has an answer or an error. A stream to a frozen gateway ends when
# the supervisor ends the gateway, or when HTTP/2's keep-alive (20 s + 10 s) runs out.
ANSWERED_S = {"grpc": FRAME_TIMEOUT_S + 5, "http": FRAME_TIMEOUT_S + 5, "stream": 35.0}
PAUSE_S = 0.05

# Says what is wrong with the labels that a version is said to have made; "" for nothing.
Judge = Callable[[int, NDArray[Any]], str]


class Outcome(NamedTuple):
    """What came back for a frame.

    Attributes:
        error: name of the error, or what the judge said; empty when there was none.
        version: of the model that answered; 0 for none.
    """

    error: str
    version: int = 0


@dataclass(frozen=True)
class Answer:
    """The outcome of one frame.

    Attributes:
        caller: who sent it.
        sent: when, seconds of the monotonic clock.
        took_s: time until the answer or error.
        error: name of the error, empty when there was none.
        version: of the model that answered; 0 for none.
    """

    caller: str
    sent: float
    took_s: float
    error: str
    version: int = 0


class Callers:
    """Threads that send a frame again and again over gRPC, a stream and HTTP, while entered."""

    def __init__(self, served: Served, frame: Path, judge: Judge | None = None) -> None:
        """Args: served: answers; frame: a file; judge: of the labels, which are fetched for it."""
        self.answers: list[Answer] = []
        self._served = served
        self._judge = judge
        self._frame = frame.read_bytes()
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=send, name=name, daemon=True)
            for name, send in (
                ("grpc", self._over_grpc),
                ("http", self._over_http),
                ("stream", self._over_stream),
            )
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(ANSWERED_S[thread.name])
            assert not thread.is_alive(), f"a frame over {thread.name} hangs"

    def wait_answered(self, count: int, since: float, seconds: float) -> float:
        """Wait until each caller's last frames, sent after a time, were answered well.

        Args:
            count: how many of each caller.
            since: time after which they are sent.
            seconds: most time to wait.

        Returns:
            Seconds from `since` until the first of these frames was sent.
        """
        deadline = time.monotonic() + seconds
        while True:
            runs = [self._last_good(thread.name, since) for thread in self._threads]
            if all(len(run) >= count for run in runs):
                return max(run[0].sent for run in runs) - since
            assert time.monotonic() < deadline, self.failures()[-5:]
            time.sleep(0.1)

    def answers_since(self, since: float) -> list[Answer]:
        """Those to frames that were answered after a time."""
        return [each for each in list(self.answers) if each.sent + each.took_s >= since]

    def failures(self) -> list[Answer]:
        return [answer for answer in list(self.answers) if answer.error]

    def assert_typed_and_bounded(self, allowed: Iterable[type[NucleiError]]) -> None:
        """Every frame was answered, or failed with one of these errors, in bounded time."""
        names = {kind.__name__ for kind in allowed}
        for answer in self.answers:
            assert answer.error in {"", *names}, answer
            assert answer.took_s < ANSWERED_S[answer.caller], answer

    def _last_good(self, caller: str, since: float) -> list[Answer]:
        run: list[Answer] = []
        for answer in list(self.answers):
            if answer.caller == caller and answer.sent >= since:
                run = [] if answer.error else [*run, answer]
        return run

    def _over_grpc(self) -> None:
        with Client(self._served.grpc_address) as client:
            self._send("grpc", lambda: over_grpc(client, self._frame, judge=self._judge))

    def _over_http(self) -> None:
        with httpx.Client() as http:
            url = self._served.http_url
            self._send("http", lambda: over_http(http, url, self._frame, judge=self._judge))

    def _send(self, caller: str, send: Callable[[], Outcome]) -> None:
        while not self._stopped.is_set():
            sent = time.monotonic()
            self._note(caller, sent, send())
            time.sleep(PAUSE_S)

    def _over_stream(self) -> None:
        """One stream after the other: each is open until it fails."""
        with Client(self._served.grpc_address) as client:
            while not self._stopped.is_set():
                sent: dict[int, float] = {}
                stream = client.stream(
                    self._frames(sent), outputs=_outputs(self._judge), timeout_s=FRAME_TIMEOUT_S
                )
                try:
                    for each in stream:
                        found = _judged(each.segmentation, each.error, self._judge)
                        self._note("stream", sent.pop(each.sequence), found)
                except NucleiError as error:
                    for since in sent.values():
                        self._note("stream", since, Outcome(type(error).__name__))
                else:
                    assert not sent, "a stream has ended, and some of its frames have no outcome"
                time.sleep(PAUSE_S)

    def _frames(self, sent: dict[int, float]) -> Iterator[bytes]:
        """The frames of a stream; records when each was sent, by its number."""
        for number in itertools.takewhile(lambda _: not self._stopped.is_set(), itertools.count()):
            sent[number] = time.monotonic()
            yield self._frame
            time.sleep(PAUSE_S)

    def _note(self, caller: str, sent: float, outcome: Outcome) -> None:
        self.answers.append(Answer(caller, sent, time.monotonic() - sent, *outcome))


def over_grpc(
    client: Client,
    frame: bytes,
    timeout_s: float = FRAME_TIMEOUT_S,
    judge: Judge | None = None,
) -> Outcome:
    """Send a frame; what came back."""
    try:
        found = client.segment(frame, outputs=_outputs(judge), timeout_s=timeout_s)
    except NucleiError as error:
        return Outcome(type(error).__name__)
    return _judged(found, None, judge)


def over_http(
    http: httpx.Client,
    url: str,
    frame: bytes,
    timeout_s: float = FRAME_TIMEOUT_S,
    judge: Judge | None = None,
) -> Outcome:
    """The same over HTTP, where a failed connection has no error of ours."""
    asked = {"format": "labels.tif"} if judge else {}
    try:
        response = http.post(f"{url}/v1/segment", params=asked, content=frame, timeout=timeout_s)
    except httpx.TimeoutException:
        return Outcome(errors.DeadlineExceeded.__name__)
    except httpx.TransportError:
        return Outcome(errors.EngineUnavailable.__name__)
    if response.status_code != 200:
        return Outcome(str(response.json()["type"]).removeprefix("urn:nuclei:error:"))
    version = int(response.headers["X-Model-Version"])
    if judge is None:
        return Outcome("", version)
    return Outcome(judge(version, tifffile.imread(io.BytesIO(response.content))), version)


def _outputs(judge: Judge | None) -> tuple[str, ...]:
    return ("labels",) if judge else ("centroids",)


def _judged(found: Segmentation | None, error: NucleiError | None, judge: Judge | None) -> Outcome:
    if found is None:
        return Outcome(type(error).__name__)
    version = int(found.version)
    return Outcome(judge(version, found.labels) if judge else "", version)
