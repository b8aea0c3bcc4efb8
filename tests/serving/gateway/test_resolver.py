"""The Tritons behind a name, on loopback addresses, which come and go: stand-ins and real ones."""

import asyncio
import logging
import re
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client import REGISTRY
from pydantic import ValidationError
from tritonclient.grpc import InferenceServerClient

from nuclei.errors import EngineUnavailable
from nuclei.inference.deadline import Deadline
from nuclei.process.ports import free_ports
from serving.decoding.decoders import Decoders
from serving.engine import TritonEngine
from serving.gateway import resolver as resolving
from serving.gateway.bounds import Bounds
from serving.gateway.data_plane import DataPlane
from serving.gateway.http_routes import http_app
from serving.gateway.resolver import Resolver, look_up
from serving.gateway.routing import Router
from serving.gateway.security import Token
from serving.gateway.settings import GatewaySettings
from tests.serving.network_triton import NetworkTriton
from tests.serving.tritons import StandIn

TILE, RANGE = np.zeros((64, 64, 1), np.uint16), np.array([0, 255], np.float32)
AT_ONCE = 8
BOUNDS = Bounds(error_rate=0.02, latency_ratio=2.0, agreement=0.5, frames=20)


class Fleet:
    """A gateway's engine, resolver and router, and a name server that says what it is told to.

    Attributes:
        hosts: that the name stands for; None while there is no name server.
    """

    def __init__(self) -> None:
        self.hosts: list[str] | None = []
        self.threads: set[threading.Thread] = set()
        (self.port,) = free_ports(1)
        self.engine = TritonEngine([], 2**18, 2**24)
        names = [f"dns:///triton.test:{self.port}"]
        self.resolver = Resolver(names, self.engine.reach, self._look_up)
        self.router = Router(self.engine, BOUNDS)

    def _look_up(self, host: str, port: int) -> list[str]:
        assert (host, port) == ("triton.test", self.port)
        self.threads.add(threading.current_thread())
        if self.hosts is None:
            raise OSError("Name or service not known")
        return [f"{each}:{port}" for each in self.hosts]

    async def segment(self, tiles: int, at_once: int = AT_ONCE) -> None:
        """Run tiles through the champion."""
        room = asyncio.Semaphore(at_once)

        async def one() -> None:
            async with room:
                found = await self.router.find("unet")
                await self.engine.infer(found.graph, ("MAPS",), TILE, RANGE, Deadline.after(10))

        await asyncio.gather(*(one() for _ in range(tiles)))

    async def until_known(self, servers: int, answering: int) -> None:
        async with asyncio.timeout(5):
            while (self.engine.servers, self.engine.servers_answering) != (servers, answering):
                await asyncio.sleep(0.02)
            await self.router.refresh()


@pytest.fixture
async def fleet(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    monkeypatch.setattr(resolving, "EVERY_S", 0.1)
    made = Fleet()
    tasks = [asyncio.create_task(each.watch()) for each in (made.resolver, made.router)]
    yield made
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await made.engine.close()


@asynccontextmanager
async def serving(
    fleet: Fleet, repository: Path, version: str, *hosts: str
) -> AsyncIterator[list[StandIn]]:
    """Stand-ins at these hosts, all of which the name stands for."""
    async with AsyncExitStack() as stack:
        tritons = []
        for host in hosts:
            triton = StandIn(repository, int(version), {int(version)})
            await stack.enter_async_context(triton.running(f"{host}:{fleet.port}"))
            triton.takes_s = 0.005
            tritons.append(triton)
        fleet.hosts = list(hosts)
        await fleet.until_known(len(hosts), len(hosts))
        yield tritons


async def test_all_tritons_behind_a_name_share_the_tiles_evenly(
    fleet: Fleet, repository: Path, version: str
) -> None:
    async with serving(fleet, repository, version, "127.0.0.2", "127.0.0.3") as tritons:
        for at_once in (1, AT_ONCE):
            for each in tritons:
                each.inferred.clear()
            await fleet.segment(200, at_once)
            for each in tritons:
                assert 90 <= len(each.inferred) <= 110
    assert threading.main_thread() not in fleet.threads


async def test_one_that_is_slower_gets_fewer_tiles(
    fleet: Fleet, repository: Path, version: str
) -> None:
    """What each has to do is even, not how many tiles it has had."""
    async with serving(fleet, repository, version, "127.0.0.2", "127.0.0.3") as (slow, fast):
        slow.takes_s = 10 * fast.takes_s
        await fleet.segment(200)
        assert 0 < len(slow.inferred) < len(fast.inferred) / 2


async def test_one_that_ends_fails_no_tile_and_one_that_comes_is_used(
    fleet: Fleet, repository: Path, version: str
) -> None:
    async with serving(fleet, repository, version, "127.0.0.3") as (stays,):
        ending = StandIn(repository, int(version), {int(version)})
        ending.takes_s = 0.005
        async with ending.running(f"127.0.0.2:{fleet.port}"):
            fleet.hosts = ["127.0.0.2", "127.0.0.3"]
            await fleet.until_known(2, 2)
            asked = asyncio.create_task(fleet.segment(400))
            while len(ending.inferred) < 20:
                await asyncio.sleep(0.01)
        # It ends amid its tiles, and the name stands for it still.
        await asked
        # Answers that were under way when it ended were asked for again.
        assert 400 <= len(ending.inferred) + len(stays.inferred) <= 400 + AT_ONCE


async def test_one_that_leaves_the_name_finishes_its_tiles(
    fleet: Fleet, repository: Path, version: str
) -> None:
    async with serving(fleet, repository, version, "127.0.0.2", "127.0.0.3") as tritons:
        leaving, staying = tritons
        leaving.takes_s = staying.takes_s = 0.5
        asked = asyncio.create_task(fleet.segment(8))
        await asyncio.sleep(0.1)
        fleet.hosts = ["127.0.0.3"]
        await fleet.until_known(1, 1)
        await asked
        assert len(leaving.inferred) == 4
        staying.takes_s = 0
        await fleet.segment(8)
        assert len(leaving.inferred) == 4


async def test_one_that_leaves_while_it_is_asked_ends_no_watch(
    fleet: Fleet, repository: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.engine.CONTROL_TIMEOUT_S", 1)
    async with serving(fleet, repository, version, "127.0.0.2", "127.0.0.3") as (leaving, _):
        leaving.silent = True
        asked = leaving.asked
        while leaving.asked == asked:
            await asyncio.sleep(0.02)
        fleet.hosts = ["127.0.0.3"]
        await fleet.until_known(1, 1)
        await fleet.segment(8)


@pytest.mark.triton
async def test_real_tritons_share_frames_evenly_and_one_is_killed(
    fleet: Fleet, repository: Path, version: str, tmp_path: Path
) -> None:
    """One is added to one that serves already, and killed again while frames are in it."""
    hosts = ["127.0.0.2", "127.0.0.3"]
    tritons = [NetworkTriton(repository, tmp_path / host, host, fleet.port) for host in hosts]
    with ExitStack() as stack:
        for triton in tritons:
            stack.callback(triton.stop)
            triton.start()
        for triton in tritons:
            await asyncio.to_thread(triton.wait_ready)
        _, added = tritons

        fleet.hosts = hosts[:1]
        await fleet.until_known(1, 1)
        await fleet.segment(10)
        # Triton counts an answer after it has given it.
        async with asyncio.timeout(5):
            while answered(tritons[0], version) < 10:
                await asyncio.sleep(0.02)
        assert [answered(each, version) for each in tritons] == [10, 0]

        fleet.hosts = hosts
        known = time.monotonic()
        while not answered(added, version):
            await fleet.segment(2, 1)
        took_s = time.monotonic() - known
        await fleet.segment(40)  # each compiles for this size
        await asyncio.sleep(0.5)  # as above, and how many tiles were answered is not known here
        before = [answered(each, version) for each in tritons]
        # Frames one after the other: of many at once, one that this machine slows down gets fewer.
        for _ in range(25):
            await fleet.segment(8)
        async with asyncio.timeout(5):
            while sum(answered(each, version) for each in tritons) < sum(before) + 200:
                await asyncio.sleep(0.02)
        shares = [answered(each, version) - was for each, was in zip(tritons, before, strict=True)]
        print(f"added: answers after {took_s:.2f} s; then {shares} of 200 tiles")
        assert took_s < 5
        assert sum(shares) == 200
        assert all(90 <= share <= 110 for share in shares)

        frames = asyncio.create_task(fleet.segment(400))
        await asyncio.sleep(0.2)
        assert not frames.done()
        await asyncio.to_thread(added.kill)
        await frames


async def test_a_name_that_is_not_found_keeps_its_addresses_and_says_so_once(
    fleet: Fleet, repository: Path, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(fleet, repository, version, "127.0.0.2") as _:
        assert fleet.resolver.line() == "triton: 1 address of triton.test"
        before = failed_lookups()
        fleet.hosts = None
        async with asyncio.timeout(5):
            while failed_lookups() < before + 3:
                await asyncio.sleep(0.02)
        await fleet.segment(4)
        assert fleet.resolver.line() == (
            "triton: 1 address of triton.test, not found now (Name or service not known): "
            "these are of before"
        )
        assert caplog.text.count("not found name=triton.test") == 1
        fleet.hosts = ["127.0.0.2"]
        async with asyncio.timeout(5):
            while "found again" not in caplog.text:
                await asyncio.sleep(0.02)
        assert fleet.resolver.line() == "triton: 1 address of triton.test"


async def test_a_name_server_that_does_not_answer_holds_up_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resolving, "PATIENCE_S", 0.05)
    answer = threading.Event()
    reached: list[frozenset[str]] = []

    def look_up_late(host: str, port: int) -> list[str]:
        answer.wait(10)
        return ["127.0.0.2:1"]

    resolver = Resolver(["dns:///late.test:1"], reached.append, look_up_late)
    watching = asyncio.create_task(resolver.watch())
    async with asyncio.timeout(5):
        while "no answer for" not in resolver.line():
            await asyncio.sleep(0.01)
        answer.set()
        while not reached:
            await asyncio.sleep(0.01)
    assert resolver.line() == "triton: 1 address of late.test"
    watching.cancel()


async def test_readiness_says_what_the_name_stands_for(
    repository: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the system's own resolver: `localhost` is in every hosts file."""
    monkeypatch.setattr(resolving, "EVERY_S", 0.1)
    triton = StandIn(repository, int(version), {int(version)})
    async with triton.running():
        address = f"dns:///localhost:{triton.address.rpartition(':')[2]}"
        settings = GatewaySettings(triton_address=address)
        assert (settings.triton_addresses, settings.triton_names) == ([], [address])
        engine = TritonEngine(settings.triton_addresses, 2**18, 2**24)
        with ThreadPoolExecutor(1) as executor:
            plane = DataPlane(engine, Decoders(0, executor), executor, settings)
            app = http_app(settings, Token(settings))
            app.state.data_plane = plane
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
                unknown = await http.get("/readyz")
                watching = asyncio.create_task(plane.resolver.watch())
                async with asyncio.timeout(10):
                    while engine.servers_answering < 1 or not triton.asked:
                        await asyncio.sleep(0.02)
                        with suppress(EngineUnavailable):
                            await plane.router.refresh()
                plane.progress.note_frame()
                found = await http.get("/readyz")
                watching.cancel()
        await engine.close()
    assert unknown.status_code == 503
    assert "(triton: 0 addresses of localhost)" in unknown.json()["detail"]
    assert found.status_code == 200
    assert re.fullmatch(r"ready\ntriton: [12] address(es)? of localhost\n", found.text)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "triton",
        "triton:0",
        "dns:triton:8001",
        "dns://10.0.0.10/triton:8001",
        "http://triton:80",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValidationError, match="expected host:port, dns:///host:port or unix:PATH"):
        GatewaySettings(triton_address=f"127.0.0.1:8001,{address}")


def test_the_system_is_asked() -> None:
    assert look_up("127.0.0.2", 8001) == ["127.0.0.2:8001"]
    assert look_up("::1", 8001) == ["[::1]:8001"]


def answered(triton: NetworkTriton, version: str) -> int:
    """How many tiles it has answered."""
    with InferenceServerClient(triton.address) as client:
        statistics = client.get_inference_statistics(f"unet.{version}")
    return sum(each.inference_stats.success.count for each in statistics.model_stats)


def failed_lookups() -> float:
    return REGISTRY.get_sample_value("nuclei_triton_failed_lookups_total") or 0
