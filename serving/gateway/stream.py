"""A stream of frames: order per position, overflow policies and bounded memory."""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

from nuclei.errors import DeadlineExceeded, NucleiError
from nuclei.inference.deadline import Deadline
from serving.gateway.admission import Admission, Permit
from serving.gateway.draining import frame_given_up, stream_ended
from serving.gateway.observation import Skipped

# Most answers, SKIPPED included, that the caller has not taken when reading stops.
MAX_UNWRITTEN = 256
# Share of the drain time for work; the rest is for writing the last answers.
DRAIN_SHARE = 0.8

Answer = TypeVar("Answer")
Answer_co = TypeVar("Answer_co", covariant=True)
Admitted = AbstractAsyncContextManager[Permit]


class OverflowPolicy(Enum):
    """What happens when frames come faster than they are segmented."""

    BLOCK = "block"
    DROP_OLDEST = "drop_oldest"
    LATEST_ONLY = "latest_only"


class StreamedFrame(Protocol[Answer_co]):
    """One frame, as the caller's protocol delivers it.

    Attributes:
        position: (acquisition_uid, position); answers keep the order of frames of one position.
        n_bytes: memory of the frame as it was received.
        permit: holds that memory, as far as there was some; the stream gets it its place.
        deadline: when its caller gives up.
    """

    position: tuple[str, int]
    n_bytes: int
    permit: Permit
    deadline: Deadline

    async def answer(self, admitted: Admitted) -> Answer_co:
        """Segment the frame and make its answer, errors of the frame included.

        Args:
            admitted: to be entered before any work; waits for the frame's permit. Entering it, or
                what runs inside, raises Skipped or a NucleiError when the stream drops the frame.
        """
        ...


@dataclass(eq=False)
class _Entry(Generic[Answer]):
    """A frame whose answer is not written yet."""

    position: tuple[str, int]
    permit: Permit
    # Set once the frame has a permit, or an answer without a permit.
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    # Set by the task itself: one that is cancelled before it runs never runs.
    task: asyncio.Task[Any] | None = None
    in_window: bool = False
    answer: Answer | None = None
    given_up: Exception | None = None

    @property
    def waits(self) -> bool:
        """Whether no work has been done yet, so that skipping it wastes nothing."""
        return self.answer is None and self.given_up is None and not self.permit.working

    def give_up(self, reason: Exception) -> None:
        """Stop the work on the frame; `reason` is raised there."""
        if self.answer is None and self.given_up is None:
            self.given_up = reason
            if self.task is not None:
                self.task.cancel()


class FrameStream(Generic[Answer]):
    """The frames of one stream and their answers."""

    def __init__(
        self,
        admission: Admission,
        overflow: OverflowPolicy,
        queue_size: int,
        reader_timeout_s: float,
    ) -> None:
        """Set how the stream behaves.

        Args:
            admission: gives permits their places.
            overflow: what happens when frames come faster than they are segmented.
            queue_size: most frames that wait under DROP_OLDEST.
            reader_timeout_s: how long the caller may take no answer.
        """
        self._admission = admission
        self._overflow = overflow
        self._queue_size = queue_size
        self._reader_timeout_s = reader_timeout_s
        # Enough to keep all slots busy while answers are written.
        window = 2 * admission.max_in_work
        self._window = asyncio.Semaphore(window)
        self._max_unwritten = window if overflow is OverflowPolicy.BLOCK else MAX_UNWRITTEN
        self._entries: dict[_Entry[Answer], None] = {}  # in the order of arrival
        self._positions: dict[tuple[str, int], deque[_Entry[Answer]]] = defaultdict(deque)
        self._outbox: asyncio.Queue[_Entry[Answer] | None] = asyncio.Queue()
        self._room = asyncio.Condition()

    async def run(
        self,
        receive: Callable[[], Awaitable[StreamedFrame[Answer] | None]],
        write: Callable[[Answer], Awaitable[None]],
        draining: asyncio.Event,
        drain_s: float,
    ) -> None:
        """Answer every frame.

        Args:
            receive: the next frame; None when the caller sends no more.
            write: sends an answer; returns once the caller has room for more.
            draining: once set, no more frames are received.
            drain_s: time until the frames received before that must be answered, seconds.

        Raises:
            EngineUnavailable: drained; every frame received has been answered.
            DeadlineExceeded: the caller takes no answers.
            NucleiError: what `receive` raised; every frame received before has been answered.
        """
        try:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(self._read(receive, group))
                writing = group.create_task(self._write(write))
                drain = group.create_task(self._drain(draining, reading, drain_s))
                await asyncio.wait([reading])
                if reading.cancelled() or reading.exception() is None:
                    await self._until_unwritten_below(1)
                    self._outbox.put_nowait(None)
                    await writing
                drain.cancel()
        except BaseExceptionGroup as group_of_one:
            raise group_of_one.exceptions[0] from None
        finally:
            for entry in self._entries:
                self._release(entry)
        if reading.cancelled():
            raise stream_ended()
        if (refusal := reading.result()) is not None:
            raise refusal

    async def _read(
        self,
        receive: Callable[[], Awaitable[StreamedFrame[Answer] | None]],
        group: asyncio.TaskGroup,
    ) -> NucleiError | None:
        """Read to the end, or to an error of what is received, which is returned."""
        while True:
            try:
                frame = await receive()
            except NucleiError as error:
                return error
            if frame is None:
                return None
            entry: _Entry[Answer] = _Entry(frame.position, frame.permit)
            self._make_way(entry)
            self._entries[entry] = None
            self._positions[entry.position].append(entry)
            group.create_task(self._live(entry, frame))
            del frame  # the task holds it, for no longer than it needs it
            await entry.settled.wait()
            await self._until_unwritten_below(self._max_unwritten)

    def _make_way(self, newest: _Entry[Answer]) -> None:
        """Skip the waiting frames that the policy drops for a new one."""
        if self._overflow is OverflowPolicy.LATEST_ONLY:
            for entry in self._positions.get(newest.position, ()):
                if entry.waits:
                    entry.give_up(Skipped("a newer frame of this position came: LATEST_ONLY"))
        elif self._overflow is OverflowPolicy.DROP_OLDEST:
            waiting = [entry for entry in self._entries if entry.waits]
            for entry in waiting[: max(0, len(waiting) - self._queue_size + 1)]:
                entry.give_up(
                    Skipped(
                        f"a newer frame came while {self._queue_size} were waiting: DROP_OLDEST"
                    )
                )

    async def _live(self, entry: _Entry[Answer], frame: StreamedFrame[Answer]) -> None:
        entry.task = asyncio.current_task()
        try:
            entry.answer = await frame.answer(self._admitted(entry, frame))
        finally:
            entry.settled.set()
        position = self._positions[entry.position]
        while position and position[0].answer is not None:
            self._outbox.put_nowait(position.popleft())
        if not position:
            del self._positions[entry.position]

    @asynccontextmanager
    async def _admitted(
        self, entry: _Entry[Answer], frame: StreamedFrame[Answer]
    ) -> AsyncIterator[Permit]:
        if entry.given_up is not None:
            self._release(entry)
            raise entry.given_up
        try:
            await self._wait(entry, frame)
            yield entry.permit
        except asyncio.CancelledError:
            if entry.given_up is None:
                raise
            assert entry.task is not None
            entry.task.uncancel()
            self._release(entry)
            raise entry.given_up from None

    async def _wait(self, entry: _Entry[Answer], frame: StreamedFrame[Answer]) -> None:
        """Wait for a place in the service, then for one in the stream's window."""
        try:
            async with asyncio.timeout(frame.deadline.left_s()):
                if self._overflow is not OverflowPolicy.BLOCK:
                    self._drop_for(entry, frame.n_bytes)
                await self._admission.wait(entry.permit, frame.n_bytes)
                entry.settled.set()
                await self._window.acquire()
                entry.in_window = True
        except TimeoutError:
            self._release(entry)
            raise waited_too_long() from None

    def _drop_for(self, newest: _Entry[Answer], n_bytes: int) -> None:
        """Skip the oldest waiting frames while the server has no room for a new one."""
        for entry in list(self._entries):
            if self._admission.has_room(newest.permit, n_bytes):
                return
            if entry is not newest and entry.waits:
                entry.give_up(Skipped(f"the server is overloaded: {self._overflow.name}"))
                self._release(entry)

    async def _write(self, write: Callable[[Answer], Awaitable[None]]) -> None:
        while (entry := await self._outbox.get()) is not None:
            assert entry.answer is not None
            try:
                async with asyncio.timeout(self._reader_timeout_s):
                    await write(entry.answer)
            except TimeoutError:
                raise DeadlineExceeded(
                    f"no answer was taken for {self._reader_timeout_s:.3g} s; read the answers "
                    "while frames are sent"
                ) from None
            self._release(entry)
            async with self._room:
                del self._entries[entry]
                self._room.notify_all()

    async def _until_unwritten_below(self, count: int) -> None:
        async with self._room:
            await self._room.wait_for(lambda: len(self._entries) < count)

    async def _drain(
        self, draining: asyncio.Event, reading: asyncio.Task[NucleiError | None], drain_s: float
    ) -> None:
        await draining.wait()
        reading.cancel()
        await asyncio.sleep(DRAIN_SHARE * drain_s)
        for entry in list(self._entries):
            entry.give_up(frame_given_up())

    def _release(self, entry: _Entry[Answer]) -> None:
        entry.permit.release()
        if entry.in_window:
            entry.in_window = False
            self._window.release()


def waited_too_long() -> DeadlineExceeded:
    """Why a frame that waited for its place, or for memory, is given up."""
    return DeadlineExceeded(
        "the frame's time ran out while it waited for its turn; allow more time, or let the "
        "stream skip frames (DROP_OLDEST, LATEST_ONLY)"
    )
