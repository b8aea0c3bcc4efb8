"""Order, policies, limits and ends of a stream, whatever protocol carries it."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import REGISTRY

from nuclei.errors import (
    DeadlineExceeded,
    EngineUnavailable,
    FrameTooLarge,
    InvalidOption,
    NucleiError,
)
from nuclei.inference.deadline import Deadline
from serving.gateway.admission import Admission, Permit
from serving.gateway.observation import Skipped
from serving.gateway.stream import Admitted, FrameStream, OverflowPolicy

MIB = 2**20


@dataclass(eq=False)
class Answer:
    name: str
    said: str = "done"


@dataclass(eq=False)
class SlowFrame:
    """A frame that the test completes."""

    name: str
    position: tuple[str, int] = ("", 0)
    n_bytes: int = 1
    permit: Permit | None = None
    seconds: float = 60.0
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False

    def __post_init__(self) -> None:
        self.deadline = Deadline.after(self.seconds)

    async def answer(self, admitted: Admitted) -> Answer:
        try:
            async with admitted as permit, permit.turn():
                self.begun.set()
                await self.may_end.wait()
        except Skipped as skipped:
            return Answer(self.name, f"skipped: {skipped}")
        except NucleiError as error:
            return Answer(self.name, type(error).__name__)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return Answer(self.name)


class Caller:
    """The caller's end of a stream."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.admission = Admission(64, 64 * MIB, 1)
        self.reads = asyncio.Event()
        self.reads.set()
        self.draining = asyncio.Event()
        self._sent: asyncio.Queue[Any] = asyncio.Queue()

    def send(self, *frames: SlowFrame | NucleiError | None) -> None:
        for frame in frames:
            self._sent.put_nowait(frame)

    @property
    def unread(self) -> int:
        return self._sent.qsize()

    async def receive(self) -> SlowFrame | None:
        frame = await self._sent.get()
        if isinstance(frame, NucleiError):
            raise frame
        received: SlowFrame | None = frame
        if received is not None:
            received.permit = self.admission.arriving("stream", "caller:1#1")
        return received

    async def write(self, answer: Answer) -> None:
        await self.reads.wait()
        self.answers.append(answer)

    async def first_answers(self, count: int) -> list[tuple[str, str]]:
        async with asyncio.timeout(5):
            while len(self.answers) < count:
                await asyncio.sleep(0.001)
        return [(answer.name, answer.said.partition(":")[0]) for answer in self.answers]


@asynccontextmanager
async def streaming(
    caller: Caller,
    overflow: OverflowPolicy = OverflowPolicy.BLOCK,
    admission: Admission | None = None,
    *,
    queue_size: int = 2,
    reader_timeout_s: float = 30.0,
    drain_s: float = 5.0,
) -> AsyncIterator["asyncio.Task[None]"]:
    caller.admission = admission or caller.admission
    stream: FrameStream[Answer] = FrameStream(
        caller.admission, overflow, queue_size, reader_timeout_s
    )
    task = asyncio.create_task(stream.run(caller.receive, caller.write, caller.draining, drain_s))
    yield task
    task.cancel()
    await asyncio.wait([task])
    assert REGISTRY.get_sample_value("nuclei_frames_in_flight") == 0
    assert REGISTRY.get_sample_value("nuclei_frames_in_work") == 0


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def allow(frames: Iterable[SlowFrame]) -> None:
    for frame in frames:
        frame.may_end.set()


async def test_order_is_kept_per_position_only() -> None:
    caller = Caller()
    slow, after = SlowFrame("slow", ("a", 1)), SlowFrame("after", ("a", 1))
    other, elsewhere = SlowFrame("other", ("a", 2)), SlowFrame("elsewhere", ("b", 1))
    async with streaming(caller, admission=Admission(64, MIB, 4)) as task:
        caller.send(slow, after, other, elsewhere, None)
        allow([after, other, elsewhere])
        assert {name for name, _ in await caller.first_answers(2)} == {"other", "elsewhere"}
        allow([slow])
        assert [name for name, _ in await caller.first_answers(4)][2:] == ["slow", "after"]
        await asyncio.wait_for(task, 1)


async def test_block_stops_reading_and_loses_nothing() -> None:
    caller = Caller()
    frames = [SlowFrame(str(number), ("", number)) for number in range(20)]
    async with streaming(caller) as task:
        caller.send(*frames, None)
        await settle()
        assert caller.unread > 15
        allow(frames)
        assert sorted(await caller.first_answers(20)) == sorted((f.name, "done") for f in frames)
        await asyncio.wait_for(task, 1)


async def test_drop_oldest_keeps_the_newest_waiting() -> None:
    caller = Caller()
    frames = [SlowFrame(str(number)) for number in range(6)]
    async with streaming(caller, OverflowPolicy.DROP_OLDEST, queue_size=2) as task:
        caller.send(frames[0])
        await frames[0].begun.wait()
        caller.send(*frames[1:], None)
        await settle()
        allow(frames)
        said = dict(await caller.first_answers(6))
        assert list(said) == ["0", "1", "2", "3", "4", "5"]
        assert list(said.values()) == ["done", "skipped", "skipped", "skipped", "done", "done"]
        assert "DROP_OLDEST" in caller.answers[1].said
        await asyncio.wait_for(task, 1)


async def test_latest_only_counts_each_position_for_itself() -> None:
    caller = Caller()
    busy = SlowFrame("busy", ("", 9))
    frames = [SlowFrame(f"{t}{p}", ("", p)) for t in range(3) for p in (1, 2)]
    async with streaming(caller, OverflowPolicy.LATEST_ONLY) as task:
        caller.send(busy)
        await busy.begun.wait()
        caller.send(*frames, None)
        await settle()
        allow([busy, *frames])
        said = dict(await caller.first_answers(7))
        assert {name for name, what in said.items() if what == "done"} == {"busy", "21", "22"}
        assert "LATEST_ONLY" in next(a.said for a in caller.answers if a.name == "01")
        await asyncio.wait_for(task, 1)


async def test_a_frame_in_work_is_never_dropped() -> None:
    caller = Caller()
    first, second = SlowFrame("first"), SlowFrame("second")
    async with streaming(caller, OverflowPolicy.LATEST_ONLY, Admission(64, MIB, 2)):
        caller.send(first)
        await first.begun.wait()
        caller.send(second)
        await settle()
        allow([first, second])
        assert await caller.first_answers(2) == [("first", "done"), ("second", "done")]


async def test_overloaded_server_makes_block_wait() -> None:
    caller = Caller()
    admission = Admission(1, MIB, 1)
    held = admission.admit("grpc", "other")
    held.place()
    frame = SlowFrame("frame")
    allow([frame])
    async with streaming(caller, admission=admission):
        caller.send(frame)
        await settle()
        assert not caller.answers
        held.release()
        assert await caller.first_answers(1) == [("frame", "done")]


async def test_overloaded_server_makes_the_others_skip() -> None:
    caller = Caller()
    admission = Admission(4, MIB, 1)
    frames = [SlowFrame(str(number)) for number in range(4)]
    allow(frames[1:])
    async with streaming(caller, OverflowPolicy.DROP_OLDEST, admission, queue_size=9):
        caller.send(*frames)
        await frames[0].begun.wait()
        await settle()
        allow(frames)
        assert await caller.first_answers(4) == [
            ("0", "done"),
            ("1", "skipped"),
            ("2", "skipped"),
            ("3", "done"),
        ]
        assert "overloaded" in caller.answers[1].said


async def test_time_is_over_while_waiting() -> None:
    caller = Caller()
    admission = Admission(1, MIB, 1)
    held = admission.admit("grpc", "other")
    held.place()
    async with streaming(caller, admission=admission) as task:
        late = SlowFrame("late", seconds=0.05)
        caller.send(late, None)
        assert await caller.first_answers(1) == [("late", "DeadlineExceeded")]
        assert not late.begun.is_set()
        await asyncio.wait_for(task, 1)
        held.release()


async def test_frame_that_can_never_fit_is_answered() -> None:
    caller = Caller()
    async with streaming(caller, admission=Admission(4, MIB, 1)):
        huge, good = SlowFrame("huge", n_bytes=2 * MIB), SlowFrame("good")
        allow([good])
        caller.send(huge, good)
        assert await caller.first_answers(2) == [("huge", FrameTooLarge.__name__), ("good", "done")]


async def test_caller_who_leaves_cancels_everything() -> None:
    caller = Caller()
    frames = [SlowFrame(str(number)) for number in range(3)]
    async with streaming(caller) as task:
        caller.send(*frames)
        await frames[0].begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert frames[0].cancelled


async def test_a_wrong_message_ends_the_stream_once_the_frames_before_it_are_answered() -> None:
    caller = Caller()
    frames = [SlowFrame("first"), SlowFrame("second")]
    async with streaming(caller, admission=Admission(64, MIB, 4)) as task:
        caller.send(*frames)
        await frames[1].begun.wait()
        caller.send(InvalidOption("settings come first"), SlowFrame("after"))
        await settle()
        allow(frames)
        with pytest.raises(InvalidOption, match="settings"):
            await asyncio.wait_for(task, 1)
        assert await caller.first_answers(2) == [("first", "done"), ("second", "done")]
        assert caller.unread == 1


@pytest.mark.parametrize("overflow", OverflowPolicy)
async def test_slow_reader_stops_the_reading_and_is_disconnected(
    overflow: OverflowPolicy,
) -> None:
    caller = Caller()
    caller.reads.clear()
    frames = [SlowFrame(str(number)) for number in range(600)]
    allow(frames)
    async with streaming(caller, overflow, reader_timeout_s=0.3) as task:
        caller.send(*frames)
        await asyncio.sleep(0.1)
        assert caller.unread > 300
        assert (REGISTRY.get_sample_value("nuclei_frames_in_flight") or 0) <= 4
        with pytest.raises(DeadlineExceeded, match="no answer was taken"):
            await asyncio.wait_for(task, 2)


async def test_reader_who_comes_back_in_time_gets_everything() -> None:
    caller = Caller()
    caller.reads.clear()
    frames = [SlowFrame(str(number)) for number in range(30)]
    allow(frames)
    async with streaming(caller) as task:
        caller.send(*frames, None)
        await asyncio.sleep(0.05)
        caller.reads.set()
        assert [name for name, _ in await caller.first_answers(30)] == [str(n) for n in range(30)]
        await asyncio.wait_for(task, 1)


async def test_draining_answers_what_was_received() -> None:
    caller = Caller()
    frames = [SlowFrame(str(number)) for number in range(2)]
    async with streaming(caller) as task:
        caller.send(*frames)
        await frames[0].begun.wait()
        caller.draining.set()
        await settle()
        caller.send(SlowFrame("late"))
        allow(frames)
        with pytest.raises(EngineUnavailable, match="shutting down"):
            await asyncio.wait_for(task, 1)
        assert await caller.first_answers(2) == [("0", "done"), ("1", "done")]
        assert caller.unread == 1


async def test_draining_takes_no_longer_than_allowed() -> None:
    caller = Caller()
    stuck = SlowFrame("stuck")
    async with streaming(caller, drain_s=0.1) as task:
        caller.send(stuck)
        await stuck.begun.wait()
        caller.draining.set()
        with pytest.raises(EngineUnavailable):
            await asyncio.wait_for(task, 1)
        assert await caller.first_answers(1) == [("stuck", "EngineUnavailable")]
