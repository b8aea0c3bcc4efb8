"""Files that are small and cost much: what they take, and what all others get meanwhile."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from nuclei.formats.png import encode_png
from serving.gateway import metrics
from serving.triton.server import TritonServer
from tests.attacks.files import ATTACK_FILES, png_rgba16

Listen = Callable[..., AbstractAsyncContextManager[Any]]

MIB = 2**20
TIMEOUT_S = 2.0
# What 2 s of work on a busy machine may take.
PATIENCE_S = 15.0
SMALL = encode_png(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
REFUSALS = {"InvalidImage", "FrameTooLarge", "DeadlineExceeded", "Overloaded"}


async def post(http: httpx.AsyncClient, file: bytes, **parameters: float) -> str:
    """The error that a file is answered with, empty for a result."""
    answer = await http.post("/v1/segment", content=file, params=parameters)
    return "" if answer.status_code == 200 else str(answer.json()["title"])


async def small(http: httpx.AsyncClient) -> str:
    """What a caller gets who has done nothing; on a slow machine later than an attack may take."""
    return await post(http, SMALL, timeout_s=PATIENCE_S)


async def until_ready(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await http.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.1)


def used_bytes() -> int:
    """Memory of this process and of its decoders, what they share counted once."""
    this = psutil.Process()
    decoders = [each for each in this.children() if "serving.decoding.decoder" in each.cmdline()]
    return sum(each.memory_full_info().pss for each in [this, *decoders])


def reserved_bytes() -> float:
    (sample,) = metrics.BYTES_IN_FLIGHT.collect()[0].samples
    return sample.value


@asynccontextmanager
async def attacked(listen: Listen, triton: TritonServer) -> AsyncIterator[httpx.AsyncClient]:
    """A caller of a gateway of two threads, in which a frame may take two seconds."""
    settings = {"default_timeout_s": TIMEOUT_S, "threads": 2, "max_bytes_in_flight": 2**31}
    async with (
        listen(triton_address=triton.address, **settings) as ports,
        httpx.AsyncClient(base_url=ports.url, timeout=60) as http,
    ):
        await until_ready(http)
        yield http


async def test_others_are_served_while_and_after_each_file(
    listen: Listen, triton: TritonServer
) -> None:
    async with attacked(listen, triton) as http:
        assert await small(http) == ""
        for name, attack_file in ATTACK_FILES.items():
            file = attack_file.large()
            started = time.monotonic()
            attack = asyncio.create_task(post(http, file))
            await asyncio.sleep(0.05)
            assert await small(http) == "", name
            assert await attack in REFUSALS | {""}, name
            assert time.monotonic() - started < PATIENCE_S, name
        await until_ready(http)
        assert reserved_bytes() == 0


@pytest.mark.parametrize("name", ATTACK_FILES)
async def test_a_file_takes_no_more_memory_than_is_set_aside(
    listen: Listen, triton: TritonServer, name: str
) -> None:
    file = ATTACK_FILES[name].large()
    async with attacked(listen, triton) as http:
        assert await small(http) == ""
        before = used_bytes()
        beyond = 0.0

        async def sample() -> None:
            nonlocal beyond
            # What is given up is unmapped a moment after its place is free.
            reserved = deque([0.0], maxlen=30)
            while True:
                reserved.append(reserved_bytes())
                beyond = max(beyond, used_bytes() - before - max(reserved))
                await asyncio.sleep(0.01)

        async with _running(sample()):
            await post(http, file)
        # The file as it is received, and what a decoder and the gateway keep after first files of a
        # kind: modules, arenas.
        assert beyond < len(file) + 128 * MIB


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()


async def test_a_picture_that_takes_too_much_is_refused_before_the_work(
    listen: Listen, triton: TritonServer
) -> None:
    blank = encode_png(np.zeros((4096, 4096), np.uint8))
    ports_settings = {"triton_address": triton.address, "max_bytes_in_flight": 350 * MIB}
    async with (
        listen(**ports_settings) as ports,
        httpx.AsyncClient(base_url=ports.url, timeout=60) as http,
    ):
        await until_ready(http)
        answer = await http.post("/v1/segment?format=overlay.png", content=blank)
        assert answer.status_code == 413
        assert answer.json()["title"] == "FrameTooLarge"
        assert (await http.post("/v1/segment?format=overlay.png", content=SMALL)).is_success
        assert reserved_bytes() == 0


async def test_others_are_served_while_callers_leave_in_the_middle_of_their_files(
    listen: Listen, triton: TritonServer
) -> None:
    slow = png_rgba16(4000)

    async def leave_again_and_again(url: str) -> None:
        neighbour = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
        while True:
            async with httpx.AsyncClient(base_url=url, transport=neighbour) as http:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await post(http, slow)

    async with attacked(listen, triton) as http:
        assert await small(http) == ""
        async with AsyncExitStack() as stack:
            for _ in range(8):
                await stack.enter_async_context(_running(leave_again_and_again(str(http.base_url))))
            await asyncio.sleep(1)
            answers = [await small(http) for _ in range(10)]
            assert answers == [""] * 10
        await until_ready(http)
        assert reserved_bytes() == 0
