"""Which instances of a model are at work. Triton's interpreter runs this file too."""

import fcntl
import os
import struct
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Activity:
    """Whether other instances of the same model, each a process, are at work.

    Each holds a read lock on the model's file while it works. The kernel takes back the lock of
    one that is killed.
    """

    # struct flock: type, whence, start, length, process.
    _FLOCK = "hhqqi"

    def __init__(self, path: Path) -> None:
        """Args: path: the file of the model; every instance names the same."""
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)  # Triton drops a model without a word

    @contextmanager
    def working(self) -> Iterator[bool]:
        """Count as at work inside; yields whether another instance is at work, too."""
        fcntl.lockf(self._file, fcntl.LOCK_SH)
        try:
            yield self._others_work()
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _others_work(self) -> bool:
        """Whether a write lock would have to wait."""
        asked = struct.pack(self._FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        found = fcntl.fcntl(self._file, fcntl.F_GETLK, asked)
        return bool(struct.unpack(self._FLOCK, found)[0] != fcntl.F_UNLCK)
