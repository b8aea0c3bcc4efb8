"""Processes that end with the one that started them."""

import ctypes
import os
import signal

_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def end_with(parent: int, by: signal.Signals) -> None:
    """Let the kernel send this process a signal once its parent has ended, however that ended.

    More exactly: the thread of the parent that started this process.

    Args:
        parent: process id of the parent, which may have ended before this is called.
        by: the signal.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, by)
    if os.getppid() != parent:
        os.kill(os.getpid(), by)
