import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

_START = "from nuclei.cli.main import main; main()"
_IN_A_CALLBACK_OF_AN_IMPORT = """
import sys, time
class Late:
    def __del__(self):
        # A signal just before a pause waits until it ends.
        for _ in range(600):
            time.sleep(0.1)
class Finder:
    def find_spec(self, name, *_):
        if name == "nuclei.cli.app":
            Late()
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("before", ["", _IN_A_CALLBACK_OF_AN_IMPORT], ids=["usual", "callback"])
def test_a_command_ends_by_sigterm(before: str) -> None:
    _ends_by_sigterm("-c", before + _START, "probe", "--address", "127.0.0.1:1")


def test_the_first_container_of_a_pod_ends_by_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("NUCLEI_SYNC", f"http://127.0.0.1:{silent.getsockname()[1]}")
        _ends_by_sigterm("-m", "serving.promotion", "prepare")


def _ends_by_sigterm(*arguments: str) -> None:
    first = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*first, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a namespace of processes needs root")
    with subprocess.Popen(
        [*first, sys.executable, *arguments], stderr=subprocess.DEVNULL
    ) as outside:
        try:
            deadline = time.monotonic() + 60
            while not (inside := _handles_sigterm(outside.pid)):
                assert outside.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            inside.send_signal(signal.SIGTERM)
            assert outside.wait(30) == 128 + signal.SIGTERM
        finally:
            outside.kill()


def _handles_sigterm(pid: int) -> psutil.Process | None:
    """The child of a process, once it has a handler for SIGTERM."""
    for child in psutil.Process(pid).children():
        status = Path(f"/proc/{child.pid}/status").read_text()
        caught = re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)
        if caught and int(caught[1], 16) & 1 << (signal.SIGTERM - 1):
            return child
    return None
