"""The gateway's process under a supervisor: it has imported all, and forks the one that serves.

Imports take seconds of a processor, a fork milliseconds. This process itself opens nothing and
starts no thread, which a fork would lose; `serving.supervision.gateway_process` tells it when.
"""

import contextlib
import gc
import os
import signal
import socket
import sys
from types import FrameType

from nuclei.process.child import how_it_ended
from nuclei.process.lifeline import end_with

REQUEST = b"fork"


def serve_in_forks(descriptor: int) -> None:
    """Fork at each request; returns in the forked process, which is to serve.

    One serves at a time; it ends with this process, and gets its SIGTERM and SIGINT. When it exits,
    this process does so too, with its code. When a signal ended it, the supervisor is told.

    Args:
        descriptor: of this end of a pair of sockets (SOCK_SEQPACKET).
    """
    connection = socket.socket(fileno=descriptor)
    # A collection would write to the pages that are shared.
    gc.freeze()
    while connection.recv(len(REQUEST)):
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            connection.close()
            end_with(parent, signal.SIGTERM)
            return
        stopped = _pass_on_signals(pid)
        exit_code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        if exit_code >= 0 or stopped:
            sys.exit(max(exit_code, 0))
        connection.send(how_it_ended(exit_code).encode())
    sys.exit(0)


def _pass_on_signals(pid: int) -> list[int]:
    """Let another process get the signals that ask this one to stop; the list fills with them."""
    got: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        got.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, pass_on)
    return got
