"""Memory that two processes share."""

import fcntl
import mmap
import os

import numpy as np
from numpy.typing import NDArray


class Segment:
    """Bytes without a name, which live as long as a process maps them.

    Attributes:
        fd: what another process needs to map them; -1 once it is closed.
        size: number of bytes.
        memory: the mapping; views of it keep it alive.
    """

    def __init__(self, fd: int) -> None:
        """Map the whole segment behind a file descriptor."""
        self.fd = fd
        self.size = os.fstat(fd).st_size
        self.memory = mmap.mmap(fd, self.size)

    @classmethod
    def new(cls, size: int) -> "Segment":
        """A new one of zeros, whose size nobody can change: a shorter one would be a SIGBUS.

        Args:
            size: bytes, at least 1; pages that nobody writes to take no memory.

        Raises:
            OSError: there are too many open files, or there is no memory to map.
        """
        fd = os.memfd_create("frame", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        except OSError:
            os.close(fd)
            raise
        return cls(fd)

    def __del__(self) -> None:
        """Close the descriptor of a segment that was given up before another process had it."""
        if self.fd >= 0:
            self.close_fd()

    def close_fd(self) -> None:
        """Close the descriptor, once the other process has it."""
        os.close(self.fd)
        self.fd = -1

    def write(self, data: bytes) -> None:
        """Copy bytes to its start."""
        np.copyto(self.view(len(data)), np.frombuffer(data, np.uint8))

    def view(self, count: int) -> NDArray[np.uint8]:
        """The first bytes: uint8 [count], a view."""
        return np.frombuffer(self.memory, np.uint8, count)
