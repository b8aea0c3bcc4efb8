"""A process that decodes image files for its parent: `python -m serving.decoding.decoder`.

It imports little and reads no settings: what it needs comes with each file.
"""

import contextlib
import gc
import resource
import signal
import socket
import sys
import traceback
from pathlib import Path

import numpy as np

from nuclei.errors import InvalidImage, NucleiError
from nuclei.imaging.frame_options import AS_IT_IS
from nuclei.imaging.images import FrameLimits, probe_frame, read_frame
from nuclei.process.lifeline import end_with
from serving.decoding.messages import (
    MAX_MESSAGE_BYTES,
    Probe,
    packed_error,
    packed_failure,
    packed_frame,
    packed_header,
    request_of,
)
from serving.decoding.segment import Segment

# Processor time for a step; the largest frames take a third of it.
MAX_CPU_S = 60

_STATUS = Path("/proc/self/status")
_OOM_SCORE = Path("/proc/self/oom_score_adj")


class Decoder:
    """Answers its parent, one step of one file at a time."""

    def __init__(self, connection: socket.socket, file: Segment, pixels: Segment) -> None:
        """Args: file, pixels: the segments that are used where none comes with a request."""
        self._connection = connection
        self._input, self._output = file, pixels
        self._file = memoryview(b"")
        self._how = FrameLimits(), AS_IT_IS

    def run(self) -> None:
        """Say that it is there, then answer until the parent closes the connection."""
        self._connection.send(b"{}")
        while True:
            request, fds, _, _ = socket.recv_fds(self._connection, MAX_MESSAGE_BYTES, 1)
            if not request:
                return
            segment = Segment(fds[0]) if fds else None
            if segment is not None:
                segment.close_fd()
            large = segment is not None or len(self._file) > self._input.size
            answer = self._answer(request, segment)
            del segment  # its memory is not kept while this process waits
            self._connection.send(answer)
            if large:
                gc.collect()  # what reads files leaves cycles, which hold them

    def _answer(self, request: bytes, segment: Segment | None) -> bytes:
        step = request_of(request)
        _limit(step.memory_bytes)
        try:
            if isinstance(step, Probe):
                return self._probe(segment or self._input, step)
            return self._read(segment or self._output)
        except NucleiError as error:
            return packed_error(error)
        except MemoryError:
            return packed_error(
                InvalidImage(
                    "the image takes more memory to decode than one of its size should; save it "
                    "as PNG, or as TIFF with deflate"
                )
            )
        except Exception:
            return packed_failure(traceback.format_exc())

    def _probe(self, segment: Segment, step: Probe) -> bytes:
        self._file = memoryview(segment.memory)[: step.n_bytes].toreadonly()
        self._how = step.limits, step.options
        try:
            return packed_header(probe_frame(self._file, step.limits, step.options.selection))
        except BaseException:
            self._file = memoryview(b"")
            raise

    def _read(self, segment: Segment) -> bytes:
        file, self._file = self._file, memoryview(b"")
        frame = read_frame(file, *self._how)
        values = frame.pixels.reshape(-1).view(np.uint8)
        np.copyto(segment.view(len(values)), values)
        return packed_frame(frame)


def _limit(memory_bytes: int) -> None:
    """Bound what the next step takes from now on; the kernel kills what runs for longer."""
    unlimited = resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + memory_bytes, unlimited))
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = int(used.ru_utime + used.ru_stime) + MAX_CPU_S
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, unlimited))


def _data_bytes() -> int:
    """Private memory that this process may write to, as RLIMIT_DATA counts it."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmData:"))
    return int(line.split()[1]) * 1024


def main(parent: int, connection: int, file: int, pixels: int) -> None:
    """Serve the parent.

    Args:
        parent: its process id.
        connection: descriptor of this end of a pair of sockets (SOCK_SEQPACKET).
        file, pixels: descriptors of the usual segments.
    """
    end_with(parent, signal.SIGKILL)
    # The parent ends it, once the frames are answered that it has accepted.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        # Where memory is short, the kernel ends this process before the gateway.
        _OOM_SCORE.write_text("1000")
    segments = Segment(file), Segment(pixels)
    for segment in segments:
        segment.close_fd()
    Decoder(socket.socket(fileno=connection), *segments).run()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
