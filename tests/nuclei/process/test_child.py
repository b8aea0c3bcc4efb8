"""Child processes."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from nuclei.process.child import Child
from tests.serving.leftovers import living

# Ignores SIGTERM, and has a child in a session of its own.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print("started", flush=True)
time.sleep(60)
"""

# Starts processes while other threads call a gRPC server, as the supervisor does.
STARTING = """
import subprocess, threading
from concurrent.futures import ThreadPoolExecutor
import grpc

server = grpc.server(ThreadPoolExecutor(2))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
started = threading.Event()

def call():
    while not started.is_set():
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            try:
                channel.unary_unary("/none/None")(b"")
            except grpc.RpcError:
                pass

threads = [threading.Thread(target=call) for _ in range(2)]
for thread in threads:
    thread.start()
codes = {subprocess.call(["true"], preexec_fn=int) for _ in range(200)}
started.set()
for thread in threads:
    thread.join()
server.stop(0)
print("exit codes:", codes)
"""


def child(code: str, tmp_path: Path) -> Child:
    return Child("a test", [sys.executable, "-c", code], os.environ, tmp_path / "logs" / "log.txt")


def wait_for(found: Child, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in found.last_lines(5):
        assert time.monotonic() < deadline, found.last_lines(5)
        time.sleep(0.02)


def test_its_output_is_in_its_log(tmp_path: Path) -> None:
    started = child("print(1); print(2); print(3)", tmp_path)
    assert started.last_lines(2) == ""
    started.start()
    wait_for(started, "3")
    assert started.last_lines(2) == "2\n3"
    started.stop(5)
    assert started.pid is None


def test_stop_ends_what_does_not_listen_and_its_children(tmp_path: Path) -> None:
    started = child(STUBBORN, tmp_path)
    started.start()
    wait_for(started, "started")
    processes = [psutil.Process(started.pid), *psutil.Process(started.pid).children()]
    assert len(processes) == 2
    started.stop(0.2)
    assert not started.running
    assert not living(processes)


def test_what_it_starts_while_it_calls_grpc_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRPC_ENABLE_FORK_SUPPORT", raising=False)
    started = child(STARTING, tmp_path)
    started.start()
    wait_for(started, "exit codes:")
    assert "exit codes: {0}" in started.last_lines(5)
    started.stop(5)


def test_stop_twice_and_before_start_is_nothing(tmp_path: Path) -> None:
    started = child("pass", tmp_path)
    started.stop(1)
    started.start()
    started.stop(1)
    started.stop(1)
    assert not started.running


def test_a_patient_stop_is_cut_short_by_another(tmp_path: Path) -> None:
    started = child(STUBBORN, tmp_path)
    started.start()
    wait_for(started, "started")
    patient = threading.Thread(target=started.stop, args=[30])
    patient.start()
    started.stop(0)
    patient.join(10)
    assert not patient.is_alive()
    assert not started.running


@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM"])
def test_it_ends_with_its_parent(tmp_path: Path, number: str) -> None:
    code = f"""
import os, pathlib, signal, sys, time
from nuclei.process.child import Child
started = Child("x", [sys.executable, "-c", "import time; time.sleep(60)"], os.environ,
                pathlib.Path({str(tmp_path / "log.txt")!r}))
started.start()
print(started.pid, flush=True)
os.kill(os.getpid(), signal.{number})
time.sleep(60)
"""
    parent = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    pid = int(parent.stdout)
    deadline = time.monotonic() + 10
    while pid in [process.pid for process in living(psutil.process_iter())]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_long_log_is_rotated_while_it_is_written(tmp_path: Path) -> None:
    code = """
import sys, time
sys.stdout.write("x" * (33 * 2**20) + "\\n"); sys.stdout.flush()
while True:
    print("more", flush=True); time.sleep(0.02)
"""
    started = child(code, tmp_path)
    started.start()
    wait_for(started, "more")
    started.cap_log()
    assert started.log.stat().st_size < 2**20
    assert started.log.with_name("log.txt.1").stat().st_size > 32 * 2**20
    wait_for(started, "more")
    assert b"\0" not in started.log.read_bytes()
    started.stop(5)


def test_a_log_that_somebody_removed_does_not_matter(tmp_path: Path) -> None:
    started = child("print('once', flush=True); import time; time.sleep(60)", tmp_path)
    started.start()
    wait_for(started, "once")
    started.log.unlink()
    started.cap_log()
    assert started.running
    started.stop(5)


def test_the_log_of_the_time_before_is_kept(tmp_path: Path) -> None:
    started = child("print('once')", tmp_path)
    for _ in range(2):
        started.start()
        wait_for(started, "once")
        started.stop(5)
    lines = started.log.with_name("log.txt.1").read_text().splitlines(keepends=True)
    # gRPC, if this process uses it, may write a line of its own where it is forked.
    assert [line for line in lines if "ev_epoll1_linux.cc" not in line] == ["once\n"]


def test_it_says_how_it_ended(tmp_path: Path) -> None:
    started = child("import os; os.kill(os.getpid(), 9)", tmp_path)
    started.start()
    while started.running:
        time.sleep(0.02)
    assert started.ending == "killed by SIGKILL"
    assert started.exit_code == -9


def test_stop_reaches_the_children_of_its_children_of_ours(tmp_path: Path) -> None:
    code = f"""
import os, pathlib, sys, time
from nuclei.process.child import Child
started = Child("x", [sys.executable, "-c", {STUBBORN!r}], os.environ,
                pathlib.Path({str(tmp_path / "inner.txt")!r}))
started.start()
while not started.last_lines(1):
    time.sleep(0.02)
print("started", started.pid, flush=True)
time.sleep(60)
"""
    outer = child(code, tmp_path)
    outer.start()
    wait_for(outer, "started")
    inner = psutil.Process(int(outer.last_lines(1).split()[1]))
    os.kill(outer.pid or 0, 9)
    while outer.running:
        time.sleep(0.02)
    outer.stop(0)
    assert not living([inner])
