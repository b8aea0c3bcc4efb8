"""The decoders of a gateway: processes that wait for files, and are replaced when they are lost."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import EngineUnavailable, InvalidImage, InvalidInput, NucleiError
from nuclei.imaging.decoding import Header
from nuclei.imaging.frame_options import AS_IT_IS, FrameOptions
from nuclei.imaging.images import Frame, FrameLimits
from nuclei.process.backoff import Backoff
from nuclei.process.child import MARK
from serving.decoding.answers import frame_of, header_of
from serving.decoding.messages import MAX_MESSAGE_BYTES, Probe, Read, Request, packed_request
from serving.decoding.segment import Segment
from serving.logs import Event

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# Files and pixels up to this size use memory that stays mapped: new pages cost more than a copy.
KEPT_BYTES = 2**24
# Memory of a decoder for what is no pixels: tags, metadata, rows that are being decompressed.
OVERHEAD_BYTES = 2**25
START_S = 60.0

# All that a decoder gets of the environment, in which there are secrets.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", MARK)


def probing_bytes(file_bytes: int) -> int:
    """Memory that `Decoder.probe` takes at most: the file here, shared, and in the process."""
    return 3 * file_bytes + OVERHEAD_BYTES


def decoding_bytes(file_bytes: int, header: Header) -> int:
    """Memory that `Decoder.read` takes at most, once the file is only in what both share."""
    return file_bytes + _frame_bytes(header) + _reading_bytes(header)


def _frame_bytes(header: Header) -> int:
    """Length of the pixels of the frame, which has 8 or 16 bit whatever the file has."""
    return header.height * header.width * header.channels * 2


def _reading_bytes(header: Header) -> int:
    """Memory of the process for pixels: as they are decoded, and as they are converted."""
    return header.peak_bytes + OVERHEAD_BYTES


class Decoder:
    """One process that decodes one file at a time.

    Attributes:
        between: whether it is free for the next file, holding no large one.
        killed: set by `kill`.
        replaced: done once another process has taken its place in the pool.
    """

    def __init__(self, executor: Executor) -> None:
        """Start the process. Call it in the main thread: the process ends with its thread.

        Args:
            executor: where files are copied.

        Raises:
            OSError: it cannot be started.
        """
        self.between = False
        self.killed = asyncio.Event()
        self.replaced: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._executor = executor
        self._input, self._output = Segment.new(KEPT_BYTES), Segment.new(KEPT_BYTES)
        # The pixels of the last frame, as long as somebody has them.
        self._lent: weakref.ref[NDArray[np.uint8]] | None = None
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.setblocking(False)
        descriptors = theirs.fileno(), self._input.fd, self._output.fd
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "serving.decoding.decoder",
                    *map(str, (os.getpid(), *descriptors)),
                ],
                env={
                    **{name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                    "PYTHONSAFEPATH": "1",
                    # Its threads would take memory, and the time of other frames.
                    "OPENBLAS_NUM_THREADS": "1",
                },
                stdin=subprocess.DEVNULL,
                # Libraries write what they think of a file.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=descriptors,
                start_new_session=True,
            )
        except OSError:
            self._connection.close()
            raise
        finally:
            theirs.close()
            self._input.close_fd()
            self._output.close_fd()

    async def wait_started(self) -> None:
        """Raises NucleiError or TimeoutError when it does not start."""
        async with asyncio.timeout(START_S):
            await self._answer()
        self.between = True

    async def probe(
        self, file: bytes, limits: FrameLimits, options: FrameOptions = AS_IT_IS
    ) -> Header:
        """Take a file, and read its header.

        Args:
            file: a whole image file.
            limits: the largest frame.
            options: how the frame is to be read.

        Raises:
            InvalidInput: as `nuclei.imaging.images.probe_frame`, or it takes too much.
            EngineUnavailable: the process was ended.
            ValueError: the process failed in a way that nobody foresaw.
            OSError: there is no memory to share.
        """
        self.between = False
        segment = self._input if len(file) <= KEPT_BYTES else Segment.new(len(file))
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._executor, segment.write, file)
        request = Probe(len(file), limits, options, len(file) + OVERHEAD_BYTES)
        header = await self._ask(request, segment, header_of)
        # A large file stays mapped until it is read: a decoder that never is told to is ended.
        self.between = segment is self._input
        limits.check_shape(header.height, header.width)
        return header

    async def read(self, header: Header) -> Frame:
        """Decode the file that was probed; the pixels are in memory shared with the process.

        Args:
            header: what `probe` found.

        Raises:
            InvalidInput: as `nuclei.imaging.images.read_frame`, or it takes too much.
            EngineUnavailable: the process was ended.
            ValueError: the process failed in a way that nobody foresaw.
            OSError: there is no memory to share.
        """
        n_bytes = _frame_bytes(header)
        free = self._lent is None or self._lent() is None
        segment = self._output if free and n_bytes <= KEPT_BYTES else Segment.new(n_bytes)
        values = segment.view(segment.size)
        if segment is self._output:
            self._lent = weakref.ref(values)
        request = Read(_reading_bytes(header))
        return await self._ask(request, segment, lambda answer: frame_of(answer, values))

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._connection.close()
        self.killed.set()

    def wait(self) -> None:
        """Wait until it has ended."""
        self._process.wait()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    async def _ask(
        self, request: Request, segment: Segment, taken: Callable[[bytes], Result]
    ) -> Result:
        """The answer to a request, as `taken` makes it of its bytes."""
        self.between = False
        # The process has those that are kept.
        fds = [segment.fd] if segment.fd >= 0 else []
        try:
            socket.send_fds(self._connection, [packed_request(request)], fds)
        except OSError:
            raise await self._lost() from None
        finally:
            if fds:
                segment.close_fd()
        answer = await self._answer()
        try:
            result = taken(answer)
        except InvalidInput:
            self.between = True
            raise
        self.between = True
        return result

    async def _answer(self) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            answer = await loop.sock_recv(self._connection, MAX_MESSAGE_BYTES)
        except OSError:
            answer = b""
        if not answer:
            raise await self._lost()
        return answer

    async def _lost(self) -> NucleiError:
        """Why the process ended on its own."""
        code = await asyncio.to_thread(self._process.wait)
        logger.warning(Event("decoder ended", code=code))
        if code == -signal.SIGXCPU:
            return InvalidImage(
                "the image takes more time to decode than any of its size should; save it again, "
                "uncompressed or as PNG"
            )
        if code in (
            -signal.SIGSEGV,
            -signal.SIGABRT,
            -signal.SIGBUS,
            -signal.SIGFPE,
            -signal.SIGILL,
        ):
            return InvalidImage(
                "the image is damaged: its decoder failed; expected a whole file: send it again"
            )
        return EngineUnavailable("the process that decodes images was ended; send the frame again")


class Decoders:
    """A pool of decoders. It belongs to one event loop, that of the main thread."""

    def __init__(self, count: int, executor: Executor) -> None:
        """Args: count: of the processes; executor: where files are copied."""
        self._count = count
        self._executor = executor
        self._idle: asyncio.LifoQueue[Decoder] = asyncio.LifoQueue()
        self._running: set[Decoder] = set()
        self._starting = asyncio.Lock()
        self._keeping: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to start the processes; who needs one earlier waits for it."""
        self._keeping = [asyncio.create_task(self._keep()) for _ in range(self._count)]

    async def close(self) -> None:
        """End all processes."""
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        for decoder in self._running:
            decoder.kill()
            await asyncio.to_thread(decoder.wait)

    @asynccontextmanager
    async def decoder(self) -> AsyncIterator[Decoder]:
        """A decoder, once one is free; it is killed when it is left in the middle of a file."""
        while not (decoder := await self._idle.get()).running:
            decoder.kill()
        try:
            yield decoder
        finally:
            if decoder.between:
                self._idle.put_nowait(decoder)
            else:
                decoder.kill()

    async def _keep(self) -> None:
        """Keep one place of the pool filled."""
        # Not the decoder itself, whose memory would stay.
        replaced: asyncio.Future[None] | None = None
        while True:
            decoder = await self._started()
            self._idle.put_nowait(decoder)
            if replaced is not None:
                replaced.set_result(None)
            await decoder.killed.wait()
            await asyncio.to_thread(decoder.wait)
            self._running.remove(decoder)
            replaced = decoder.replaced

    async def _started(self) -> Decoder:
        """A new decoder; as long as none can be started, it is tried again."""
        backoff = Backoff()
        while True:
            # One after the other: what else starts with the gateway needs processors, too.
            async with self._starting:
                try:
                    return await self._new()
                except (NucleiError, OSError) as error:
                    why = str(error) or f"it said nothing in {START_S:.0f} s"
                    logger.error(Event("decoder not started", why=why))
            await asyncio.sleep(backoff.failed(0))

    async def _new(self) -> Decoder:
        """A new decoder; raises NucleiError or OSError when it does not start."""
        decoder = Decoder(self._executor)
        self._running.add(decoder)
        try:
            await decoder.wait_started()
        except (NucleiError, OSError):
            decoder.kill()
            await asyncio.to_thread(decoder.wait)
            self._running.remove(decoder)
            raise
        return decoder
