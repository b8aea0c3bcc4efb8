"""Admission: places and memory for frames, so that overload is answered at once.

What is held counts: memory as the bytes of a frame arrive, a place once it has arrived. A caller
that announces much and sends nothing, or keeps a call open, holds neither.

A caller may hold no more than what is left free for others (dynamic thresholds: Choudhury and
Hahne, IEEE/ACM Transactions on Networking 6, 1998). So one greedy connection or stream gets half of
the service, two get a third each, and there is always room for a new one. All connections of one
host together are a caller too, with `HOST_SHARE` times what is left free. Frames with a permit wait
for their turn; hosts take turns, and so do the callers of each, and none may hold all slots: the
large frames of one never keep all others waiting. The turn of a frame whose decoder was killed
lasts until that is replaced: who ends work again and again pays for it alone.

Frames of streams may wait for a place, or for more memory. They keep nothing of the memory that
they wait for the rest of, so that no two wait for each other; of large ones, one may.

Callers are named HOST:PORT, or HOST:PORT#STREAM. All of it belongs to one event loop.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Self

from nuclei.errors import FrameTooLarge, Overloaded
from serving.gateway import metrics

# A host alone gets four fifths: behind a proxy all callers are one host.
HOST_SHARE = 4
# Part of the memory that work may have that gives way to callers.
LENT_SHARE = 1 / 4
# A frame of this size may wait without memory: 2048 x 2048 pixels of 16 bit.
WAITING_BYTES = 9 * 2**20
# Time of a frame until one has been measured.
FIRST_GUESS_S = 0.5
# Frames over which their rate is measured.
MEASURED = 32
MIN_RETRY_S = 0.05
MAX_RETRY_S = 30.0


class Permit:
    """What one frame holds of the service, until it is released.

    Attributes:
        caller: who holds it.
        n_bytes: memory reserved for the frame, or for what has arrived of it.
        refused_bytes: memory that it was refused; 0 once its memory has changed since.
        placed: whether it has its place.
        working: whether the frame has got its turn.
    """

    def __init__(self, admission: "Admission", protocol: str, caller: str) -> None:
        self._admission = admission
        self._protocol = protocol
        self._released = False
        self._turn_lasts_until: asyncio.Future[None] | None = None
        self.caller = caller
        self.n_bytes = 0
        self.refused_bytes = 0
        self.placed = False
        self.working = False

    def resize(self, n_bytes: int) -> None:
        """Change the reserved memory, once it is known; does nothing on a released permit.

        Raises:
            FrameTooLarge: more than the service ever has.
            Overloaded: more than is free now; the reservation stays as it was.
        """
        if not self._released:
            self._admission._resize(self, n_bytes)

    def place(self) -> None:
        """Take a place for the frame, which has arrived.

        Raises:
            Overloaded: none is free now.
        """
        self._admission._place(self)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until this frame may be worked on; callers take turns."""
        await self._admission._turns.take(self.caller)
        self.working = True
        try:
            yield
        finally:
            self.working = False
            lasts_until, self._turn_lasts_until = self._turn_lasts_until, None
            if lasts_until is None:
                self._admission._turns.give_back(self.caller)
            else:
                lasts_until.add_done_callback(
                    lambda _: self._admission._turns.give_back(self.caller)
                )

    def extend_turn(self, until: asyncio.Future[None]) -> None:
        """Give the turn back only once this is done: what the work took from all is replaced."""
        self._turn_lasts_until = until

    def release(self) -> None:
        """Give everything back; a second time does nothing."""
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


class Loan:
    """Memory of work that gives way to callers, until it is returned or reclaimed."""

    def __init__(self, account: "Account", n_bytes: int, reclaimed: Callable[[], None]) -> None:
        """Take it.

        Args:
            account: of the memory.
            n_bytes: how much.
            reclaimed: called once a caller needs it; the work is to end at once.
        """
        self._account = account
        self._n_bytes = n_bytes
        self._reclaimed = reclaimed
        self._count(n_bytes)

    def end(self) -> None:
        """Return it; a second time does nothing."""
        self._count(-self._n_bytes)
        self._n_bytes = 0

    def reclaim(self) -> None:
        """Take it away from the work."""
        self.end()
        self._reclaimed()

    @property
    def held(self) -> bool:
        return self._n_bytes > 0

    def _count(self, n_bytes: int) -> None:
        self._account.total += n_bytes
        metrics.BYTES_IN_FLIGHT.set(self._account.total)


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
        self._frames = Account(max_frames)
        self._bytes = Account(max_bytes)
        self._streams = Account(max_frames)
        self._waiting: deque[tuple[Permit, int, asyncio.Future[None]]] = deque()
        self._turns = _Turns(max_in_work)
        self._rate = _Rate(FIRST_GUESS_S / max_in_work)
        self._loan: Loan | None = None
        # Those whose frames have arrived in part.
        self._arriving: set[Permit] = set()
        self._moved_s = time.monotonic()

    def admit(self, protocol: str, caller: str) -> Permit:
        """A permit for a frame that is about to arrive; it holds nothing yet.

        Args:
            protocol: the caller's, for the metrics.
            caller: for fairness.

        Raises:
            Overloaded: there is no place now, with the time after which to try again.
        """
        permit = Permit(self, protocol, caller)
        lacking = self._frames.lacking(caller, 1, "frames") or self._lacking_bytes(caller, 1)
        if lacking:
            raise self._refusal(protocol, lacking)
        return permit

    def arriving(self, protocol: str, caller: str) -> Permit:
        """A permit for a frame that may wait for its place; arguments as for `admit`."""
        return Permit(self, protocol, caller)

    def has_room(self, permit: Permit, n_bytes: int) -> bool:
        """Whether a frame would get its place and memory now.

        Raises:
            FrameTooLarge: more memory than the service ever has.
        """
        return not self._lacking(permit, n_bytes)

    async def wait(self, permit: Permit, n_bytes: int) -> None:
        """Give a permit its place and memory as soon as there are; one with a place waits for more.

        Of several that fit, the oldest first: a small frame may overtake a large one.

        Raises:
            FrameTooLarge: more memory than the service ever has.
            Overloaded: it has more than `WAITING_BYTES`, but not all, and no place, or another such
                waits.
        """
        lacking = self._lacking(permit, n_bytes)
        if not lacking:
            self._grant(permit, n_bytes)
            return
        if permit.n_bytes < n_bytes:
            if permit.n_bytes <= WAITING_BYTES:
                permit.resize(0)
            elif not permit.placed or any(
                0 < other.n_bytes < wanted for other, wanted, _ in self._waiting
            ):
                raise self._refusal(permit._protocol, lacking)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((permit, n_bytes, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                permit.release()
            else:
                self._waiting.remove((permit, n_bytes, granted))
                self._grant_waiting()
            raise

    @contextmanager
    def stream(self, protocol: str, caller: str) -> Iterator[None]:
        """Count a stream while it is open; raises Overloaded when there are too many."""
        lacking = self._streams.lacking(caller, 1, "streams")
        if lacking:
            raise self._refusal(protocol, lacking)
        with self._streams.one(caller):
            yield

    def lend(self, n_bytes: int, reclaimed: Callable[[], None]) -> Loan | None:
        """Memory for work that gives way; None when there is none to spare.

        One loan at a time, of at most `LENT_SHARE` of all memory.

        Args:
            n_bytes: how much.
            reclaimed: called once a caller needs it; the work is to end at once.
        """
        free = self._bytes.limit - self._bytes.total
        if self._waiting or n_bytes > min(free, self._bytes.limit * LENT_SHARE):
            return None
        if self._loan is not None and self._loan.held:
            return None
        self._loan = Loan(self._bytes, n_bytes, reclaimed)
        return self._loan

    @property
    def quiet_s(self) -> float:
        """How long no frame has arrived, waited or been in work, seconds; 0 while one does."""
        if self._arriving or self._waiting or self._turns.busy:
            return 0.0
        return time.monotonic() - max(self._moved_s, self._turns.given_back_s)

    @property
    def idle(self) -> bool:
        """Whether nothing is held, nor on its way in."""
        return not self._frames.total and not self._bytes.total

    def connections(self) -> set[str]:
        """The connections that have a stream or a frame here; a part of a frame is none."""
        held = (self._streams.held, self._frames.held)
        return {caller.partition("#")[0] for account in held for caller in account}

    def _lacking(self, permit: Permit, n_bytes: int) -> str:
        self._check_ever(n_bytes)
        lacking = "" if permit.placed else self._frames.lacking(permit.caller, 1, "frames")
        return lacking or self._lacking_bytes(permit.caller, n_bytes, permit.n_bytes)

    def _lacking_bytes(self, caller: str, n_bytes: int, has: int = 0) -> str:
        """Why a caller cannot have this memory; what is lent is taken back for it."""
        lacking = self._bytes.lacking(caller, n_bytes, "bytes", has)
        if lacking and self._loan is not None and self._loan.held:
            self._loan.reclaim()
            lacking = self._bytes.lacking(caller, n_bytes, "bytes", has)
        return lacking

    def _check_ever(self, n_bytes: int) -> None:
        if n_bytes > self._bytes.limit:
            raise FrameTooLarge(
                f"the frame needs about {n_bytes} bytes of memory; this server gives at most "
                f"{self._bytes.limit} to all frames: crop it or split it into tiles"
            )

    def _refusal(self, protocol: str, lacking: str) -> Overloaded:
        metrics.REJECTED.labels(protocol, lacking).inc()
        what = {
            "frames": f"the server holds {self._frames.total} frames, its limit",
            "bytes": f"the frames that the server holds use most of its {self._bytes.limit} bytes",
            "share": "this caller's frames or streams use its share of the server",
            "streams": f"the server has {self._streams.total} streams, its limit",
        }[lacking]
        hint_s = self._retry_after_s()
        return Overloaded(f"{what}; send again in {hint_s:.2g} s or send fewer at once", hint_s)

    def _retry_after_s(self) -> float:
        """The time in which half of the frames held now will be done, within bounds."""
        self._rate.note(busy=self._frames.total > 0, done=False)
        hint_s = max(1, self._frames.total / 2) * self._rate.seconds_each()
        return min(max(hint_s, MIN_RETRY_S), MAX_RETRY_S)

    def _place(self, permit: Permit) -> None:
        lacking = self._frames.lacking(permit.caller, 1, "frames")
        if lacking:
            raise self._refusal(permit._protocol, lacking)
        permit.placed = True
        self._arriving.discard(permit)
        self._count(permit.caller, 1, 0)

    def _grant(self, permit: Permit, n_bytes: int) -> None:
        self._arriving.discard(permit)
        self._count(permit.caller, int(not permit.placed), n_bytes - permit.n_bytes)
        permit.placed = True
        permit.n_bytes = n_bytes

    def _resize(self, permit: Permit, n_bytes: int) -> None:
        if n_bytes > permit.n_bytes:
            self._check_ever(n_bytes)
            lacking = self._lacking_bytes(permit.caller, n_bytes, permit.n_bytes)
            if lacking:
                permit.refused_bytes = n_bytes
                raise self._refusal(permit._protocol, lacking)
        self._count(permit.caller, 0, n_bytes - permit.n_bytes)
        permit.n_bytes = n_bytes
        permit.refused_bytes = 0
        if not permit.placed and n_bytes:
            self._arriving.add(permit)
        else:
            self._arriving.discard(permit)
        self._grant_waiting()

    def _release(self, permit: Permit) -> None:
        self._arriving.discard(permit)
        self._count(permit.caller, -int(permit.placed), -permit.n_bytes)
        self._grant_waiting()

    def _count(self, caller: str, frames: int, n_bytes: int) -> None:
        self._moved_s = time.monotonic()
        self._rate.note(busy=self._frames.total > 0, done=frames < 0)
        self._frames.add(caller, frames)
        self._bytes.add(caller, n_bytes)
        metrics.FRAMES_IN_FLIGHT.set(self._frames.total)
        metrics.BYTES_IN_FLIGHT.set(self._bytes.total)

    def _grant_waiting(self) -> None:
        for entry in list(self._waiting):
            permit, n_bytes, granted = entry
            if not granted.done() and not self._lacking(permit, n_bytes):
                self._waiting.remove(entry)
                self._grant(permit, n_bytes)
                granted.set_result(None)


class Account:
    """How much of one resource is held, by whom."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        # By caller and by host.
        self.held: Counter[str] = Counter()

    def add(self, caller: str, amount: int) -> None:
        self.total += amount
        for name in (caller, host_of(caller)):
            self.held[name] += amount
            if not self.held[name]:
                del self.held[name]

    @contextmanager
    def one(self, caller: str) -> Iterator[None]:
        """Hold one while inside."""
        self.add(caller, 1)
        try:
            yield
        finally:
            self.add(caller, -1)

    def lacking(self, caller: str, amount: int, name: str, has: int = 0) -> str:
        """Why a caller cannot have this amount instead of what it `has`: `name`, or its share."""
        free = self.limit - self.total + has
        if amount > free:
            return name
        for name_held, share in ((caller, 1), (host_of(caller), HOST_SHARE)):
            others = self.held[name_held] - has
            if others and others >= share * free:
                return "share"
        return ""


class _Rate:
    """How fast frames are done, over the last ones, counting only the time in which some are held.

    A standstill makes it slower too.
    """

    def __init__(self, first_guess_s: float) -> None:
        self._first_guess_s = first_guess_s
        self._busy_s = 0.0
        self._since = time.monotonic()
        # Busy times at which frames were done.
        self._done: deque[float] = deque([0.0], maxlen=MEASURED + 1)

    def note(self, busy: bool, done: bool) -> None:
        """A number of frames is about to change; some were held until now if it was `busy`."""
        now = time.monotonic()
        if busy:
            self._busy_s += now - self._since
        self._since = now
        if done:
            self._done.append(self._busy_s)

    def seconds_each(self) -> float:
        frames = len(self._done) - 1
        if not frames:
            return max(self._first_guess_s, self._busy_s)
        return (self._busy_s - self._done[0]) / frames


def host_of(caller: str) -> str:
    """The host of a caller's name."""
    return caller.rpartition(":")[0]


class _Turns:
    """A number of slots, for which hosts take turns, and the callers of each host.

    One caller never has the last two of them, and one host never the last, where there are so many.

    Attributes:
        given_back_s: when the last one was given back, on the monotonic clock.
    """

    def __init__(self, slots: int) -> None:
        self.given_back_s = time.monotonic()
        self._slots = slots
        self._most_of_caller = max(1, slots - 2)
        self._most_of_host = max(1, slots - 1)
        self._held: Counter[str] = Counter()
        self._taken = 0
        # Hosts in the order in which they have their turn; of each, its callers in theirs.
        self._waiting: dict[str, dict[str, deque[asyncio.Future[None]]]] = {}

    async def take(self, caller: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        host = self._waiting.setdefault(host_of(caller), {})
        host.setdefault(caller, deque()).append(turn)
        self._hand_out()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(caller)
            else:
                self._forget(caller, turn)
            raise

    @property
    def busy(self) -> bool:
        """Whether a slot is taken or waited for."""
        return self._taken > 0 or bool(self._waiting)

    def give_back(self, caller: str) -> None:
        self.given_back_s = time.monotonic()
        self._hold(caller, -1)
        self._hand_out()

    def _hand_out(self) -> None:
        while self._taken < self._slots and (caller := self._next()) is not None:
            host = host_of(caller)
            callers = self._waiting.pop(host)
            queue = callers.pop(caller)
            turn = queue.popleft()
            if queue:
                callers[caller] = queue
            if callers:
                self._waiting[host] = callers
            if not turn.cancelled():
                turn.set_result(None)
                self._hold(caller, 1)
        metrics.FRAMES_IN_WORK.set(self._taken)

    def _next(self) -> str | None:
        """Whose turn it is."""
        return next(
            (
                caller
                for host, callers in self._waiting.items()
                if self._held[host] < self._most_of_host
                for caller in callers
                if self._held[caller] < self._most_of_caller
            ),
            None,
        )

    def _hold(self, caller: str, change: int) -> None:
        self._taken += change
        for name in (caller, host_of(caller)):
            self._held[name] += change
            if not self._held[name]:
                del self._held[name]

    def _forget(self, caller: str, turn: asyncio.Future[None]) -> None:
        callers = self._waiting.get(host_of(caller), {})
        queue = callers.get(caller, deque())
        if turn in queue:
            queue.remove(turn)
        if not queue:
            callers.pop(caller, None)
        if not callers:
            self._waiting.pop(host_of(caller), None)
