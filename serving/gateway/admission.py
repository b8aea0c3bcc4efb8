"""Admission: a permit before any work, so that overload is answered at once and memory is bounded.

A caller may hold no more than what is left free for others (dynamic thresholds: Choudhury and
Hahne, IEEE/ACM Transactions on Networking 6, 1998). So one greedy caller gets half of the service,
two get a third each, and there is always room for a new one. Frames with a permit wait for their
turn; callers take turns, and no caller may hold all slots: the large frames of one never keep all
others waiting.

All of it belongs to one event loop.
"""

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Self

from nuclei.errors import FrameTooLarge, Overloaded
from serving.gateway import metrics

# Mean time of a frame until one has been measured.
FIRST_GUESS_S = 0.5
# Weight of the newest frame in the mean time of a frame.
NEWEST = 0.1
MIN_RETRY_S = 0.05
MAX_RETRY_S = 30.0


class Permit:
    """One frame's place in the service: it counts until it is released.

    Attributes:
        caller: who holds it.
        n_bytes: memory reserved for the frame.
        working: whether the frame has got its turn.
    """

    def __init__(self, admission: "Admission", protocol: str, caller: str, n_bytes: int) -> None:
        self._admission = admission
        self._protocol = protocol
        self._released = False
        self.caller = caller
        self.n_bytes = n_bytes
        self.working = False

    def resize(self, n_bytes: int) -> None:
        """Change the reserved memory, once it is known; does nothing on a released permit.

        Raises:
            FrameTooLarge: more than the service ever has.
            Overloaded: more than is free now; the reservation stays as it was.
        """
        if not self._released:
            self._admission._resize(self, n_bytes)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until this frame may be worked on; callers take turns."""
        await self._admission._turns.take(self.caller)
        self.working = True
        started = time.monotonic()
        try:
            yield
        finally:
            self.working = False
            self._admission._end_turn(self.caller, time.monotonic() - started)

    def release(self) -> None:
        """Give the place back; a second time does nothing."""
        if not self._released:
            self._released = True
            self._admission._release(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class Admission:
    """Hands out the permits of one process."""

    def __init__(self, max_frames: int, max_bytes: int, max_in_work: int) -> None:
        """Set the limits.

        Args:
            max_frames: most frames held at once, waiting or in work; also most streams.
            max_bytes: most memory reserved for them.
            max_in_work: most frames worked on at once.
        """
        self.max_in_work = max_in_work
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._streams = 0
        self._held: dict[str, set[Permit]] = defaultdict(set)
        self._frames = 0
        self._bytes = 0
        self._waiting: deque[tuple[Permit, asyncio.Future[None]]] = deque()
        self._turns = _Turns(max_in_work)
        self._turn_s = FIRST_GUESS_S

    def admit(self, protocol: str, caller: str, n_bytes: int) -> Permit:
        """A permit at once, or an error.

        Args:
            protocol: the caller's, for the metrics.
            caller: names the connection or stream, for fairness.
            n_bytes: memory that the frame needs, as far as known.

        Raises:
            FrameTooLarge: more memory than the service ever has.
            Overloaded: no place now, with the time after which to try again.
        """
        permit = Permit(self, protocol, caller, n_bytes)
        lacking = self._lacking(permit, n_bytes)
        if lacking:
            raise self._refusal(protocol, lacking)
        self._grant(permit)
        return permit

    def has_room(self, caller: str, n_bytes: int) -> bool:
        """Whether `admit` would give a permit now."""
        return not self._lacking(Permit(self, "", caller, n_bytes), n_bytes)

    async def wait(self, protocol: str, caller: str, n_bytes: int) -> Permit:
        """A permit as soon as there is place; first come, first served.

        Raises:
            FrameTooLarge: more memory than the service ever has.
        """
        permit = Permit(self, protocol, caller, n_bytes)
        if not self._lacking(permit, n_bytes):
            self._grant(permit)
            return permit
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((permit, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                permit.release()
            else:
                self._waiting.remove((permit, granted))
                self._grant_waiting()
            raise
        return permit

    @contextmanager
    def stream(self, protocol: str) -> Iterator[None]:
        """Count a stream while it is open; raises Overloaded when there are too many."""
        if self._streams >= self._max_frames:
            raise self._refusal(protocol, "streams")
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    def _lacking(self, permit: Permit, n_bytes: int) -> str:
        """The resource that is short; empty when the permit can have these bytes.

        Raises FrameTooLarge when it never can.
        """
        if n_bytes > self._max_bytes:
            raise FrameTooLarge(
                f"the frame needs about {n_bytes} bytes of memory; this server gives at most "
                f"{self._max_bytes} to all frames: crop it or split it into tiles"
            )
        others = self._held.get(permit.caller, set()) - {permit}
        held = permit in self._held.get(permit.caller, ())
        free_frames = self._max_frames - self._frames + held
        free_bytes = self._max_bytes - self._bytes + held * permit.n_bytes
        if free_frames < 1:
            return "frames"
        if n_bytes > free_bytes:
            return "bytes"
        if others and (
            len(others) >= free_frames or sum(other.n_bytes for other in others) >= free_bytes
        ):
            return "share"
        return ""

    def _refusal(self, protocol: str, lacking: str) -> Overloaded:
        metrics.REJECTED.labels(protocol, lacking).inc()
        what = {
            "frames": f"the server holds {self._frames} frames, its limit",
            "bytes": f"the frames that the server holds use most of its {self._max_bytes} bytes",
            "share": "this connection's frames use its share of the server",
            "streams": f"the server has {self._streams} streams, its limit",
        }[lacking]
        hint_s = self._retry_after_s()
        return Overloaded(f"{what}; send again in {hint_s:.2g} s or send fewer at once", hint_s)

    def _retry_after_s(self) -> float:
        """The time in which half of the frames held now will be done, within bounds."""
        hint_s = self._frames / 2 * self._turn_s / self.max_in_work
        return min(max(hint_s, MIN_RETRY_S), MAX_RETRY_S)

    def _grant(self, permit: Permit) -> None:
        self._held[permit.caller].add(permit)
        self._count(1, permit.n_bytes)

    def _resize(self, permit: Permit, n_bytes: int) -> None:
        if n_bytes > permit.n_bytes:
            lacking = self._lacking(permit, n_bytes)
            if lacking:
                raise self._refusal(permit._protocol, lacking)
        self._count(0, n_bytes - permit.n_bytes)
        permit.n_bytes = n_bytes
        self._grant_waiting()

    def _release(self, permit: Permit) -> None:
        held = self._held[permit.caller]
        held.remove(permit)
        if not held:
            del self._held[permit.caller]
        self._count(-1, -permit.n_bytes)
        self._grant_waiting()

    def _count(self, frames: int, n_bytes: int) -> None:
        self._frames += frames
        self._bytes += n_bytes
        metrics.FRAMES_IN_FLIGHT.set(self._frames)
        metrics.BYTES_IN_FLIGHT.set(self._bytes)

    def _grant_waiting(self) -> None:
        for entry in list(self._waiting):
            permit, granted = entry
            if not granted.done() and not self._lacking(permit, permit.n_bytes):
                self._waiting.remove(entry)
                self._grant(permit)
                granted.set_result(None)

    def _end_turn(self, caller: str, seconds: float) -> None:
        self._turn_s += NEWEST * (seconds - self._turn_s)
        self._turns.give_back(caller)


class _Turns:
    """A number of slots, for which callers take turns; one caller never has the last of them."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._most_of_one = max(1, slots - 1)
        self._held: Counter[str] = Counter()
        # In the order in which callers have their turn.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def take(self, caller: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        self._hand_out()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(caller)
            else:
                self._forget(caller, turn)
            raise

    def give_back(self, caller: str) -> None:
        self._held[caller] -= 1
        if not self._held[caller]:
            del self._held[caller]
        self._hand_out()

    def _hand_out(self) -> None:
        while self._held.total() < self._slots and (caller := self._next()) is not None:
            queue = self._waiting.pop(caller)
            turn = queue.popleft()
            if queue:
                self._waiting[caller] = queue
            if not turn.cancelled():
                turn.set_result(None)
                self._held[caller] += 1
        metrics.FRAMES_IN_WORK.set(self._held.total())

    def _next(self) -> str | None:
        """Whose turn it is."""
        return next((c for c in self._waiting if self._held[c] < self._most_of_one), None)

    def _forget(self, caller: str, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(caller, deque())
        if turn in queue:
            queue.remove(turn)
        if not queue:
            self._waiting.pop(caller, None)
