"""A server that runs as a child process of ours."""

import contextlib
import errno
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import psutil

from nuclei.process.lifeline import end_with

# Its descendants inherit it, and are known by it when their parents are gone.
MARK = "_NUCLEI_CHILD"
_LOG_TAIL_BYTES = 64 * 1024
_LOG_BYTES = 32 * 2**20
# Longest time to wait for what was killed.
_KILL_WAIT_S = 5.0
_POLL_S = 0.02


def private_folder(path: Path) -> None:
    """Make a folder that only this user can enter; one that exists becomes so.

    Raises:
        OSError: it cannot be made, or belongs to another user.
    """
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)


class Child:
    """A process in a session of its own (Ctrl-C does not reach it) that writes to a log file.

    Python in it and below it imports nothing from the current folder. What it writes, files and
    shared memory, no other user can read. Start it in a thread that lives as long as this process:
    it ends with that thread. Any thread may stop it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path | None,
        folder: Path | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        """Describe the process; `start` starts it.

        Args:
            name: what messages call it.
            command: program and arguments.
            environment: its whole environment, but for what holds for all of our processes.
            log: file for its output, the one before kept as `<log>.1`; None for our own output.
            folder: current folder of the process, which exists when it starts; None is ours.
            descriptors: open files of ours that it inherits under the same numbers.
        """
        self.name = name
        self.log = log
        self._command = command
        self._folder = folder
        self._descriptors = descriptors
        self._mark = secrets.token_hex(8)
        self._environment = {
            **environment,
            # As `python -P`, which its own children would not inherit.
            "PYTHONSAFEPATH": "1",
            # gRPC's own care for forks ends one in thirty before it is another program.
            "GRPC_ENABLE_FORK_SUPPORT": "0",
            MARK: f"{environment.get(MARK, '')}:{self._mark}",
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Process id, None when it does not run."""
        return self._process.pid if self._process is not None and self.running else None

    def children(self) -> frozenset[int]:
        """Process ids of what it started itself."""
        if (pid := self.pid) is None:
            return frozenset()
        try:
            return frozenset(child.pid for child in psutil.Process(pid).children())
        except psutil.NoSuchProcess:
            return frozenset()

    def lifeless_children(self) -> frozenset[int]:
        """Those of its children that were stopped, or ended and are not yet waited for."""
        lifeless = []
        for pid in self.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if psutil.Process(pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED):
                    lifeless.append(pid)
        return frozenset(lifeless)

    @property
    def exit_code(self) -> int | None:
        """None while it runs or before it was started; -9 when SIGKILL ended it."""
        return None if self._process is None else self._process.poll()

    @property
    def ending(self) -> str:
        """How it ended, for messages."""
        code = self.exit_code
        return "still running" if code is None else how_it_ended(code)

    @property
    def ended(self) -> str | None:
        """How it ended, None while it runs."""
        return None if self.running else self.ending

    def start(self) -> None:
        """Start it; it ends when this process does, however that ends.

        Raises:
            OSError: its program is missing, its log cannot be written, or there is no memory.
        """
        with contextlib.ExitStack() as stack:
            log = None if self.log is None else stack.enter_context(_opened(self.log))
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=None if log is None else subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,
                pass_fds=self._descriptors,
                preexec_fn=partial(end_with, os.getpid(), signal.SIGTERM),
            )

    def stop(self, timeout_s: float) -> None:
        """End it and its descendants: SIGTERM to it, SIGKILL for what is left after a time.

        Args:
            timeout_s: seconds between the two.
        """
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        deadline = time.monotonic() + _KILL_WAIT_S
        while (left := self._descendants()) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(_POLL_S)

    def cap_log(self) -> None:
        """Move the content of its log aside once it is long; the process goes on writing to it."""
        # Somebody may have removed it.
        with contextlib.suppress(FileNotFoundError):
            if self.log is None or self.log.stat().st_size < _LOG_BYTES:
                return
            with contextlib.suppress(OSError):  # a full disk: the content is lost
                shutil.copyfile(self.log, _aside(self.log))
            os.truncate(self.log, 0)

    def _descendants(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if self._mark in process.environ().get(MARK, "").split(":"):
                    found.append(process)
        return found

    def last_lines(self, count: int) -> str:
        """The end of its log."""
        if self.log is None:
            return ""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - _LOG_TAIL_BYTES))
                lines = log.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join(lines[-count:])


def how_it_ended(exit_code: int) -> str:
    """An exit code of a process in words; negative ones are signals."""
    if exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}"


def _opened(log: Path) -> BinaryIO:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():
            log.replace(_aside(log))
        # Appending: writers go on at the new end once the file was cut.
        return log.open("ab")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return open(os.devnull, "ab")  # a server without a log is better than none


def _aside(log: Path) -> Path:
    return log.with_name(f"{log.name}.1")
