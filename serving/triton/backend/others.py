"""Instances of one model that know of each other. Triton's interpreter runs this file too."""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Others:
    """Whether other instances of the same model, each a process, are at work.

    Each holds a read lock on the model's file while it works. The kernel takes back the lock of
    one that is killed.
    """

    # struct flock: type, whence, start, length, process.
    _FLOCK = "hhqqi"

    def __init__(self, path: Path) -> None:
        """Args: path: the file of the model; every instance names the same."""
        self._file = path.open("rb")

    @contextmanager
    def told(self) -> Iterator[bool]:
        """Be at work inside; gives whether one of the others is."""
        fcntl.lockf(self._file, fcntl.LOCK_SH)
        try:
            yield self._at_work()
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _at_work(self) -> bool:
        """Whether a write lock would have to wait."""
        asked = struct.pack(self._FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        found = fcntl.fcntl(self._file, fcntl.F_GETLK, asked)
        return bool(struct.unpack(self._FLOCK, found)[0] != fcntl.F_UNLCK)
