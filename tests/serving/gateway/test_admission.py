"""Who gets in, who is refused and who is next."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, ExitStack, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from nuclei.errors import FrameTooLarge, Overloaded
from serving.gateway.admission import Admission, Permit

MIB = 2**20


def admit(admission: Admission, caller: str, n_bytes: int = 0) -> Permit:
    """A permit of a frame that has arrived."""
    permit = admission.admit("grpc", caller)
    permit.resize(n_bytes)
    permit.place()
    return permit


def admitted(admission: Admission, caller: str, n_bytes: int = 0) -> list[Permit]:
    """Takes permits until one is refused."""
    permits = []
    while admission.has_room(admission.arriving("grpc", caller), n_bytes):
        permits.append(admit(admission, caller, n_bytes))
    with pytest.raises(Overloaded):
        admit(admission, caller, n_bytes)
    return permits


def in_flight() -> tuple[float | None, ...]:
    names = ("nuclei_frames_in_flight", "nuclei_in_flight_bytes", "nuclei_frames_in_work")
    return tuple(REGISTRY.get_sample_value(name) for name in names)


def rejected(reason: str) -> float:
    labels = {"protocol": "grpc", "reason": reason}
    return REGISTRY.get_sample_value("nuclei_rejected_total", labels) or 0.0


def test_one_greedy_caller_gets_half_and_newcomers_their_share() -> None:
    admission = Admission(60, MIB, 4)
    assert len(admitted(admission, "greedy:1")) == 30
    assert len(admitted(admission, "second:1")) == 15
    assert len(admitted(admission, "third:1")) > 0


def test_many_connections_of_one_host_leave_room_for_others() -> None:
    admission = Admission(60, 60 * MIB, 4)
    held = [len(admitted(admission, f"greedy:{port}", MIB)) for port in range(20)]
    assert sum(held) == 48
    assert len(admitted(admission, "other:1", MIB)) == 6


def test_what_has_not_arrived_holds_nothing() -> None:
    admission = Admission(4, 4 * MIB, 4)
    idle = [admission.admit("grpc", f"slow:{port}") for port in range(64)]
    idle[0].resize(MIB)
    assert in_flight()[:2] == (0, MIB)
    admit(admission, "other:1", 3 * MIB).release()
    for permit in idle:
        permit.release()
    assert in_flight()[:2] == (0, 0)


@given(st.lists(st.sampled_from(["a:1", "b:1", "c:1", "d:1"]), max_size=200))
def test_no_caller_holds_more_than_was_free_and_limits_hold(callers: list[str]) -> None:
    admission = Admission(16, 16 * MIB, 2)
    held: dict[str, list[Permit]] = {}
    for caller in callers:
        free = 16 - sum(map(len, held.values()))
        mine = held.setdefault(caller, [])
        try:
            mine.append(admit(admission, caller, MIB))
        except Overloaded:
            assert free == 0 or len(mine) >= free
        else:
            assert free >= 1
            assert len(mine) - 1 < free


def test_memory_is_shared_like_places() -> None:
    admission = Admission(1000, 60 * MIB, 4)
    assert len(admitted(admission, "greedy:1", MIB)) == 30
    assert len(admitted(admission, "second:1", MIB)) == 15


def test_a_frame_of_all_the_memory_gets_in_alone() -> None:
    admission = Admission(8, 10 * MIB, 2)
    whole = admit(admission, "a", 10 * MIB)
    with pytest.raises(Overloaded):
        admit(admission, "b", 1)
    whole.release()
    with pytest.raises(FrameTooLarge, match="at most"):
        admit(admission, "a", 10 * MIB + 1)


def test_refusal_says_when_to_come_back_and_is_counted() -> None:
    admission = Admission(2, MIB, 1)
    before = rejected("frames")
    permits = [admit(admission, "a"), admit(admission, "b")]
    with pytest.raises(Overloaded, match="send again in") as refused:
        admit(admission, "c")
    assert 0 < refused.value.retry_after_s <= 30
    assert rejected("frames") == before + 1
    assert len(permits) == 2


async def test_hint_follows_the_time_that_frames_take() -> None:
    async def hint(seconds: float) -> float:
        admission = Admission(4, MIB, 1)
        for _ in range(20):
            with admit(admission, "a") as permit:
                async with permit.turn():
                    await asyncio.sleep(seconds)
        waiting = [admit(admission, name) for name in "abcd"]
        with pytest.raises(Overloaded) as refused:
            admit(admission, "e")
        for permit in waiting:
            permit.release()
        return refused.value.retry_after_s

    assert await hint(0.001) < await hint(0.06)


async def test_hint_grows_while_nothing_is_done() -> None:
    admission = Admission(2, MIB, 1)
    for _ in range(3):
        admit(admission, "a:1").release()
    held = [admit(admission, "a:1"), admit(admission, "b:1")]
    hints = []
    for _ in range(2):
        await asyncio.sleep(0.3)
        with pytest.raises(Overloaded) as refused:
            admit(admission, "c:1")
        hints.append(refused.value.retry_after_s)
    assert 0.05 < hints[0] < hints[1]
    assert len(held) == 2


def test_resize_grows_within_the_limit_and_keeps_its_size_when_refused() -> None:
    admission = Admission(8, 10 * MIB, 2)
    first, second = admit(admission, "a", MIB), admit(admission, "b", MIB)
    first.resize(8 * MIB)
    with pytest.raises(Overloaded):
        second.resize(3 * MIB)
    assert second.n_bytes == MIB
    with pytest.raises(FrameTooLarge):
        second.resize(11 * MIB)
    first.resize(MIB)
    second.resize(3 * MIB)
    assert in_flight()[:2] == (2, 4 * MIB)


def test_all_permits_come_back() -> None:
    admission = Admission(8, 10 * MIB, 2)
    with admit(admission, "a", MIB) as permit:
        assert in_flight()[:2] == (1, MIB)
        permit.release()
        permit.resize(2 * MIB)  # by work that has not yet noticed that it was cancelled
    assert in_flight()[:2] == (0, 0)


def test_streams_are_limited() -> None:
    admission = Admission(1, MIB, 1)
    with (
        admission.stream("grpc", "a:1#1"),
        pytest.raises(Overloaded, match="streams"),
        admission.stream("grpc", "b:1#1"),
    ):
        pytest.fail("a second stream was let in")
    with admission.stream("grpc", "b:1#1"):
        pass


def test_streams_of_one_host_leave_room_for_others() -> None:
    admission = Admission(60, MIB, 1)
    with ExitStack() as open_streams:
        for number in range(48):
            open_streams.enter_context(admission.stream("grpc", f"greedy:1#{number}"))
        with pytest.raises(Overloaded, match="share"):
            open_streams.enter_context(admission.stream("grpc", "greedy:1#48"))
        open_streams.enter_context(admission.stream("grpc", "other:1#1"))


async def take_turns(admission: Admission, callers: Iterable[str]) -> list[str]:
    """The order in which waiting callers get the only turn, which is taken at first."""
    order: list[str] = []
    holder = admit(admission, "holder")
    started, end = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with holder.turn():
            started.set()
            await end.wait()

    async def work(caller: str) -> None:
        with admit(admission, caller) as permit:
            async with permit.turn():
                order.append(caller)

    async with asyncio.TaskGroup() as group:
        group.create_task(hold())
        await started.wait()
        for caller in callers:
            group.create_task(work(caller))
            await asyncio.sleep(0)
        end.set()
    holder.release()
    return order


async def test_callers_take_turns() -> None:
    assert await take_turns(Admission(64, MIB, 1), "aaaabbc") == list("abcabaa")


async def test_hosts_take_turns_and_their_callers_too() -> None:
    callers = ["a:1", "a:1", "a:2", "a:3", "b:1", "b:1"]
    turns = ["a:1", "b:1", "a:2", "b:1", "a:3", "a:1"]
    assert await take_turns(Admission(64, MIB, 1), callers) == turns


async def test_long_work_of_one_host_leaves_a_turn_to_others() -> None:
    admission = Admission(16, MIB, 4)
    async with AsyncExitStack() as held:
        for port in range(3):
            await held.enter_async_context(admit(admission, f"greedy:{port}").turn())
        fourth = asyncio.ensure_future(
            held.enter_async_context(admit(admission, "greedy:9").turn())
        )
        async with asyncio.timeout(1):
            async with admit(admission, "other:1").turn():
                assert not fourth.done()
        fourth.cancel()


async def test_long_work_of_one_caller_leaves_a_turn_to_others() -> None:
    admission = Admission(16, MIB, 4)
    async with AsyncExitStack() as held:
        for _ in range(2):
            await held.enter_async_context(admit(admission, "greedy").turn())
        third = asyncio.ensure_future(held.enter_async_context(admit(admission, "greedy").turn()))
        async with asyncio.timeout(1):
            async with admit(admission, "other").turn():
                assert not third.done()
        assert in_flight()[2] == 2
        third.cancel()


async def test_a_turn_lasts_until_what_its_work_took_from_all_is_replaced() -> None:
    admission = Admission(16, MIB, 1)
    replaced = asyncio.get_running_loop().create_future()
    leaver = admit(admission, "a:1")
    async with leaver.turn():
        leaver.extend_turn(replaced)
    leaver.release()
    assert in_flight()[2] == 1
    async with AsyncExitStack() as held:
        turn = asyncio.ensure_future(held.enter_async_context(admit(admission, "b:1").turn()))
        await asyncio.sleep(0)
        assert not turn.done()
        replaced.set_result(None)
        await asyncio.wait_for(turn, 1)
    assert in_flight()[2] == 0


async def cancelled(coroutine: Callable[[], Any]) -> None:
    task = asyncio.ensure_future(coroutine())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelled_while_waiting_for_a_turn_leaks_nothing() -> None:
    admission = Admission(8, MIB, 1)
    first, second = admit(admission, "a"), admit(admission, "b")

    async def work(permit: Permit) -> None:
        async with permit.turn():
            await asyncio.sleep(0)

    async with first.turn():
        await cancelled(lambda: work(second))
        granted = asyncio.ensure_future(work(second))
        await asyncio.sleep(0)
    granted.cancel()  # already has its turn, but has not noticed yet
    with pytest.raises(asyncio.CancelledError):
        await granted
    await asyncio.wait_for(work(first), 1)
    assert in_flight()[2] == 0


async def waited(admission: Admission, caller: str, n_bytes: int = 0) -> Permit:
    permit = admission.arriving("stream", caller)
    await admission.wait(permit, n_bytes)
    return permit


async def test_waiting_callers_get_in_as_others_leave() -> None:
    admission = Admission(2, MIB, 1)
    first, second = admit(admission, "a"), admit(admission, "b")
    waiting = [asyncio.ensure_future(waited(admission, name)) for name in "cd"]
    await asyncio.sleep(0)
    assert not any(wait.done() for wait in waiting)
    first.release()
    permit = await asyncio.wait_for(waiting[0], 1)
    assert (permit.caller, waiting[1].done()) == ("c", False)
    second.release()
    permit.release()
    (await asyncio.wait_for(waiting[1], 1)).release()
    assert in_flight()[0] == 0


async def test_frame_that_waits_keeps_the_memory_that_it_has() -> None:
    admission = Admission(1, 4 * MIB, 1)
    held = admit(admission, "a:1")
    permit = admission.arriving("stream", "b:1")
    permit.resize(3 * MIB)
    waiting = asyncio.ensure_future(admission.wait(permit, 3 * MIB))
    await asyncio.sleep(0)
    assert in_flight()[:2] == (1, 3 * MIB)
    held.release()
    await asyncio.wait_for(waiting, 1)
    assert in_flight()[:2] == (1, 3 * MIB)
    permit.release()
    assert in_flight()[:2] == (0, 0)


async def all_that_get(admission: Admission, permits: list[Permit], n_bytes: int) -> list[str]:
    """Callers of those that got what they waited for, and were done a moment later, in order."""
    got = []

    async def wait(permit: Permit) -> None:
        with permit, suppress(Overloaded):
            await admission.wait(permit, n_bytes)
            assert (permit.placed, permit.n_bytes) == (True, n_bytes)
            got.append(permit.caller)
            await asyncio.sleep(0)

    await asyncio.wait_for(asyncio.gather(*map(wait, permits)), 1)
    return got


async def test_a_part_of_a_frames_memory_is_not_kept_while_it_waits_for_the_rest() -> None:
    admission = Admission(4, 12 * MIB, 1)
    parts = [admission.arriving("stream", name) for name in ("a:1", "b:1")]
    for part in parts:
        part.resize(5 * MIB)
    assert sorted(await all_that_get(admission, parts, 8 * MIB)) == ["a:1", "b:1"]
    assert in_flight()[:2] == (0, 0)


async def test_frames_with_a_place_that_wait_for_more_all_get_it_one_after_another() -> None:
    admission = Admission(8, 20 * MIB, 1)
    # Somebody who holds a little, and does not leave.
    held = admit(admission, "other:1", MIB)
    names = ["a:1", "b:1", "c:1", "d:1"]
    permits = [admit(admission, name, 4 * MIB) for name in names]
    assert sorted(await all_that_get(admission, permits, 18 * MIB)) == names
    assert in_flight()[:2] == (1, MIB)
    held.release()


async def test_of_large_frames_that_need_more_one_waits_and_keeps_what_it_has() -> None:
    admission = Admission(8, 60 * MIB, 1)
    permits = [admit(admission, name, 16 * MIB) for name in ("a:1", "b:1", "c:1")]
    assert await all_that_get(admission, permits, 50 * MIB) == ["a:1"]
    assert in_flight()[:2] == (0, 0)


async def test_a_large_frame_of_which_a_part_found_memory_is_refused_a_place() -> None:
    admission = Admission(8, 40 * MIB, 1)
    held = admit(admission, "a:1", 16 * MIB)
    part = admission.arriving("stream", "b:1")
    part.resize(12 * MIB)
    with pytest.raises(Overloaded):
        await admission.wait(part, 30 * MIB)
    part.release()
    held.release()
    assert in_flight()[:2] == (0, 0)


async def test_cancelled_while_waiting_for_a_permit_leaks_nothing() -> None:
    admission = Admission(1, MIB, 1)
    held = admit(admission, "a")
    await cancelled(lambda: waited(admission, "b"))
    granted = asyncio.ensure_future(waited(admission, "b"))
    await asyncio.sleep(0)
    held.release()
    granted.cancel()
    with pytest.raises(asyncio.CancelledError):
        await granted
    assert in_flight()[:2] == (0, 0)
    admit(admission, "c").release()


def test_what_is_lent_goes_back_when_a_caller_needs_it() -> None:
    admission = Admission(4, 16 * MIB, 4)
    reclaimed: list[bool] = []
    loan = admission.lend(4 * MIB, lambda: reclaimed.append(True))
    assert loan is not None
    assert admission.lend(MIB, lambda: None) is None  # one at a time
    permit = admit(admission, "a:1", 10 * MIB)
    assert (loan.held, reclaimed) == (True, [])
    permit.resize(14 * MIB)
    assert (loan.held, reclaimed) == (False, [True])
    loan.end()
    permit.release()
    assert admission.idle


def test_no_more_is_lent_than_a_part_of_what_is_free() -> None:
    admission = Admission(4, 16 * MIB, 4)
    assert admission.lend(5 * MIB, lambda: None) is None
    permit = admit(admission, "a:1", 13 * MIB)
    assert admission.lend(4 * MIB, lambda: None) is None
    permit.resize(12 * MIB)
    loan = admission.lend(4 * MIB, lambda: None)
    assert loan is not None
    loan.end()
    permit.release()
    assert admission.idle


async def test_it_is_quiet_while_no_frame_is_in_work() -> None:
    admission = Admission(4, 16 * MIB, 4)
    permit = admit(admission, "a:1", MIB)
    async with permit.turn():
        await asyncio.sleep(0.05)
        assert admission.quiet_s == 0
    await asyncio.sleep(0.05)
    assert 0.05 <= admission.quiet_s < 5
    permit.release()
    assert admission.quiet_s < 0.05


async def test_it_is_not_quiet_while_a_frame_arrives_however_slowly() -> None:
    admission = Admission(4, 16 * MIB, 4)
    permit = admission.admit("grpc", "a:1")
    await asyncio.sleep(0.05)
    assert admission.quiet_s >= 0.05  # an open call that has sent nothing
    permit.resize(MIB)
    await asyncio.sleep(0.05)
    assert admission.quiet_s == 0
    permit.place()
    await asyncio.sleep(0.05)
    assert admission.quiet_s >= 0.05
    permit.release()
    left = admission.admit("grpc", "a:1")
    left.resize(MIB)
    left.release()
    await asyncio.sleep(0.05)
    assert admission.quiet_s >= 0.05
