"""Decoders: what they give, what they refuse, and that none of it outlives its caller."""

import asyncio
import contextlib
import gc
import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import tifffile

from nuclei.errors import EngineUnavailable, FrameTooLarge, InvalidImage
from nuclei.imaging.images import Frame, FrameLimits, read_frame
from serving.decoding.decoders import KEPT_BYTES, Decoder, Decoders, decoding_bytes, probing_bytes
from tests.attacks.files import ATTACK_FILES, png_rgba16

LIMITS = FrameLimits()
# Takes most of a second to decode.
SLOW = png_rgba16(4000)


@asynccontextmanager
async def running(count: int = 1) -> AsyncIterator[Decoders]:
    with ThreadPoolExecutor(1) as executor:
        decoders = Decoders(count, executor)
        decoders.start()
        try:
            yield decoders
        finally:
            await decoders.close()


async def decoded(decoders: Decoders, file: bytes, limits: FrameLimits = LIMITS) -> Frame:
    async with decoders.decoder() as decoder:
        return await decoder.read(await decoder.probe(file, limits))


def processes() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if "serving.decoding.decoder" in child.cmdline()
    ]


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def tiff(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(
        file, pixels, photometric="minisblack", resolution=(2e4, 1e4), resolutionunit="CENTIMETER"
    )
    return file.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**16, shape, np.uint16)


async def test_a_new_decoder_looks_at_the_colours_of_a_small_frame() -> None:
    """Libraries may take memory at their first use, from what a frame of this size may take."""
    cells = np.zeros((30, 29, 3), np.uint16)
    cells[5:15, 5:15, 0], cells[12:25, 12:25, 1], cells[8:20, 18:28, 2] = 9_000, 7_000, 8_000
    file = png(cells)
    async with running() as decoders:
        frame = await decoded(decoders, file)
    np.testing.assert_array_equal(frame.pixels, read_frame(file).pixels)


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(lambda: png(noise(100, 80)), id="grey PNG"),
        pytest.param(lambda: png((noise(50, 60, 3) >> 8).astype(np.uint8)), id="RGB PNG"),
        pytest.param(lambda: tiff(noise(64, 64)), id="TIFF with a pixel size"),
        pytest.param(lambda: tiff(noise(3000, 3000)), id="larger than what stays mapped"),
        pytest.param(lambda: tiff(noise(2000, 2000).astype("i1")), id="int8"),
        pytest.param(lambda: tiff((noise(2000, 2000) / 7).astype("f2")), id="float16"),
        pytest.param(lambda: tiff(noise(2000, 2000) / 7), id="float64"),
    ],
)
async def test_gives_the_frame_that_this_process_would_read(file: Callable[[], bytes]) -> None:
    data = file()
    here = read_frame(data)
    async with running() as decoders:
        there = await decoded(decoders, data)
    assert there.pixels.dtype == here.pixels.dtype
    assert np.array_equal(there.pixels, here.pixels)
    for field in fields(Frame):
        if field.name != "pixels":
            assert getattr(there, field.name) == getattr(here, field.name)


async def test_a_frame_stays_as_it_is_while_the_next_ones_are_decoded() -> None:
    frames = [noise(90, 70), noise(90, 70) // 2, noise(90, 70) // 3]
    async with running() as decoders:
        first, *_ = [await decoded(decoders, png(pixels)) for pixels in frames]
        assert np.array_equal(first.pixels[:, :, 0], frames[0])


@pytest.mark.parametrize(
    ("file", "limits", "error", "says"),
    [
        (b"", LIMITS, InvalidImage, "empty"),
        (b"a text, not an image", LIMITS, InvalidImage, "not an image"),
        (png(noise(100, 80))[:500], LIMITS, InvalidImage, "truncated"),
        (png(noise(100, 80)), FrameLimits(max_side_px=64), FrameTooLarge, "64 per side"),
    ],
    ids=["empty", "text", "truncated", "too large"],
)
async def test_refuses_what_this_process_would_refuse(
    file: bytes, limits: FrameLimits, error: type[InvalidImage], says: str
) -> None:
    async with running() as decoders:
        with pytest.raises(error, match=says):
            await decoded(decoders, file, limits)
        (same,) = processes()
        assert (await decoded(decoders, png(noise(8, 8)))).pixels.shape == (8, 8, 1)
        assert processes() == [same]


async def test_work_ends_with_its_caller() -> None:
    async with running() as decoders:
        await decoded(decoders, png(noise(8, 8)))
        (busy,) = processes()
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await decoded(decoders, SLOW)
        assert time.monotonic() - started < 0.3
        assert (await decoded(decoders, png(noise(8, 8)))).pixels.shape == (8, 8, 1)
        assert not busy.is_running()
        assert len(processes()) == 1


async def test_a_decoder_is_replaced_once_another_one_is_there() -> None:
    async with running() as decoders:
        async with decoders.decoder() as decoder:
            await decoder.probe(LARGE, LIMITS)
        assert not decoder.replaced.done()
        await asyncio.wait_for(decoder.replaced, 30)
        async with asyncio.timeout(1), decoders.decoder() as another:
            assert another.running
            assert not another.replaced.done()


def open_segments() -> int:
    gc.collect()
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(link).startswith("/memfd:frame")
    return count


@pytest.mark.parametrize("program", ["", "#!/bin/sh\nexit 1\n", "#!/bin/sh\nkill -SEGV $$\n"])
async def test_a_decoder_that_does_not_start_is_tried_again(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    if program:
        broken.write_text(program)
        broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    async with running() as decoders:
        await asyncio.sleep(0.2)
        monkeypatch.undo()
        async with asyncio.timeout(10):
            await decoded(decoders, png(noise(8, 8)))
        assert len(processes()) == 1


def mapped_segments(process: psutil.Process) -> int:
    lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    return sum("/memfd:frame" in line for line in lines)


LARGE = tiff(np.zeros((3000, 3000), np.uint16))


@pytest.mark.parametrize(
    "file", [LARGE, bytes(KEPT_BYTES + 1)], ids=["decoded", "refused by its header"]
)
async def test_large_memory_is_not_kept_between_files(file: bytes) -> None:
    async with running() as decoders:
        await decoded(decoders, png(noise(8, 8)))
        (process,) = processes()
        before = mapped_segments(process)
        with contextlib.suppress(InvalidImage):
            await decoded(decoders, file)
        assert processes() == [process]
        async with asyncio.timeout(2):
            while mapped_segments(process) > before:
                await asyncio.sleep(0.01)


async def test_a_large_file_that_is_never_read_is_not_kept() -> None:
    async with running() as decoders:
        async with decoders.decoder() as decoder:
            (process,) = processes()
            await decoder.probe(LARGE, LIMITS)
        await decoded(decoders, png(noise(8, 8)))
        assert not process.is_running()


async def test_a_file_given_up_while_it_is_copied_leaves_no_descriptor() -> None:
    with ThreadPoolExecutor(1) as executor:
        decoders = Decoders(1, executor)
        decoders.start()
        await decoded(decoders, png(noise(8, 8)))
        before = open_segments()
        may_copy = threading.Event()
        executor.submit(may_copy.wait, 5)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await decoded(decoders, bytes(KEPT_BYTES + 1))
        may_copy.set()
        await decoded(decoders, png(noise(8, 8)))
        assert open_segments() == before
        await decoders.close()


async def test_a_decoder_that_cannot_be_started_leaves_no_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/missing")
    before = open_segments()
    with ThreadPoolExecutor(1) as executor, contextlib.suppress(FileNotFoundError):
        Decoder(executor)
    assert open_segments() == before


async def test_a_decoder_that_is_killed_costs_its_frame_only() -> None:
    async with running() as decoders:
        await decoded(decoders, png(noise(8, 8)))
        (process,) = processes()
        asyncio.get_running_loop().call_later(0.1, process.kill)
        with pytest.raises(EngineUnavailable, match="send the frame again"):
            await decoded(decoders, SLOW)
        await decoded(decoders, png(noise(8, 8)))
        (process,) = processes()
        process.kill()
        process.wait()
        await decoded(decoders, png(noise(8, 8)))


async def test_a_decoder_that_crashes_blames_the_file() -> None:
    async with running() as decoders:
        await decoded(decoders, png(noise(8, 8)))
        (process,) = processes()
        asyncio.get_running_loop().call_later(0.1, process.send_signal, signal.SIGSEGV)
        with pytest.raises(InvalidImage, match="decoder failed"):
            await decoded(decoders, SLOW)


async def test_ignores_the_signals_that_are_meant_for_its_parent() -> None:
    async with running() as decoders:
        await decoded(decoders, png(noise(8, 8)))
        (process,) = processes()
        for number in (signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
        await decoded(decoders, png(noise(8, 8)))
        assert processes() == [process]


async def test_has_no_secrets_and_no_socket_that_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUCLEI_TOKEN", "a secret of sixteen")
    async with running() as decoders:
        await decoded(decoders, png(noise(8, 8)))
        (process,) = processes()
        assert "NUCLEI_TOKEN" not in process.environ()
        assert process.environ()["PYTHONSAFEPATH"] == "1"
        assert [each.status for each in process.net_connections("inet")] == []
        links = {os.readlink(link) for link in Path(f"/proc/{process.pid}/fd").iterdir()}
        assert len([link for link in links if link.startswith("socket:")]) == 1


def test_decoders_end_with_their_parent(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import asyncio
        from concurrent.futures import ThreadPoolExecutor
        from serving.decoding.decoders import Decoders

        async def main():
            decoders = Decoders(2, ThreadPoolExecutor(1))
            decoders.start()
            async with decoders.decoder(), decoders.decoder():
                print("there", flush=True)
                await asyncio.sleep(60)

        asyncio.run(main())
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout.readline() == "there\n"
        children = psutil.Process(parent.pid).children()
        assert len(children) == 2
        parent.kill()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []


@pytest.mark.parametrize("name", ATTACK_FILES)
async def test_takes_no_more_memory_than_was_set_aside(name: str) -> None:
    data = ATTACK_FILES[name].small()
    async with running() as decoders:
        await decoded(decoders, png(noise(8, 8)))
        (process,) = processes()
        before = process.memory_info().rss
        set_aside = probing_bytes(len(data))
        try:
            async with decoders.decoder() as decoder:
                header = await decoder.probe(data, LIMITS)
                set_aside = max(set_aside, decoding_bytes(len(data), header))
                frame = await decoder.read(header)
                assert frame.pixels.nbytes <= set_aside
        except InvalidImage:
            pass
        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        (peak,) = [int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:")]
        # What stays mapped counts once, not for each frame.
        assert peak - before <= set_aside + 2 * KEPT_BYTES
        assert (await decoded(decoders, png(noise(8, 8)))).pixels.shape == (8, 8, 1)
