"""A server that runs as a child process of ours."""

import contextlib
import ctypes
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_MARK = "NUCLEI_CHILD"
_LOG_TAIL_BYTES = 64 * 1024
_KILL_WAIT_S = 5.0
_POLL_S = 0.02


class Child:
    """A process in a session of its own (Ctrl-C does not reach it) that writes to a log file."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        """Describe the process; `start` starts it.

        Args:
            name: what messages call it.
            command: program and arguments.
            environment: the whole environment.
            log: file for its output, overwritten at each start.
        """
        self.name = name
        self.log = log
        self._command = command
        # Its descendants inherit it, and are known by it when their parents are gone.
        self._mark = secrets.token_hex(8)
        self._environment = {**environment, _MARK: self._mark}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Process id, None when it does not run."""
        return self._process.pid if self._process is not None and self.running else None

    def start(self) -> None:
        """Start it; it ends when this process does, however that ends."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    def stop(self, timeout_s: float) -> None:
        """End it and its descendants: SIGTERM to it, SIGKILL for what is left after a time.

        Args:
            timeout_s: seconds between the two.
        """
        if self._process is None:
            return
        if self.running:
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
        self._process = None

    def _descendants(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(_MARK) == self._mark:
                    found.append(process)
        return found

    def last_lines(self, count: int) -> str:
        """The end of its log."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - _LOG_TAIL_BYTES))
                lines = log.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join(lines[-count:])


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
