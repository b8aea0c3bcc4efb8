"""Failures of `nuclei serve` while frames stream: typed errors in bounded time, then recovery.

The tests share a service. Its state folder and /dev/shm are small file systems of its own, so that
they can be filled. Each test starts from the state that the one before leaves.
"""

import contextlib
import errno
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import httpx
import numpy as np
import psutil
import pytest

from nuclei.client import Client
from nuclei.errors import DeadlineExceeded, EngineFailed, EngineUnavailable, Overloaded
from tests.serving.callers import Callers, over_grpc, over_http
from tests.serving.leftovers import living, regions
from tests.serving.served import Served
from tests.shipped import NETWORK

pytestmark = [pytest.mark.slow, pytest.mark.triton]

WHOLE_S = 90.0
GOOD_FRAMES = 3
STATE_MIB = 64
MEMORY_MIB = 64
FROZEN = "an instance of a model has ended or was stopped"
FAILURES = (EngineUnavailable, EngineFailed, DeadlineExceeded, Overloaded)


@dataclass(frozen=True)
class Confined:
    """A service and the two file systems that it has for itself.

    Attributes:
        served: the service.
        state: its state folder, seen from outside.
        memory: its /dev/shm, seen from outside.
    """

    served: Served
    state: Path
    memory: Path


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory, fluorescence_16bit: Path) -> Path:
    """A corner of a real frame, 256x256, 16-bit."""
    pixels = cv2.imread(str(fluorescence_16bit), cv2.IMREAD_UNCHANGED)
    path = tmp_path_factory.mktemp("frames") / "corner.png"
    cv2.imwrite(str(path), np.ascontiguousarray(pixels[:256, :256]))
    return path


@contextlib.contextmanager
def small_file_systems(folder: Path) -> Iterator[tuple[list[str], Path]]:
    """A mount namespace where .state of a folder and /dev/shm are small file systems of their own.

    Yields:
        A command prefix that runs a command in it, and its root as seen from outside. An empty
        prefix and the usual root if the kernel does not allow such a namespace.
    """
    (folder / ".state").mkdir()
    mounts = (
        f"mount -t tmpfs -o size={STATE_MIB}m tmpfs {folder}/.state && "
        f"mount -t tmpfs -o size={MEMORY_MIB}m tmpfs /dev/shm && echo mounted && exec sleep 3600"
    )
    unshare = ["unshare", "--user", "--mount", "--map-root-user", "sh", "-c", mounts]
    with subprocess.Popen(unshare, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        try:
            if holder.stdout.readline() == b"mounted\n":
                enter = ["nsenter", "--user", "--mount", "--preserve-credentials", "--target"]
                yield [*enter, str(holder.pid), f"--wd={folder}"], Path(f"/proc/{holder.pid}/root")
            else:
                yield [], Path("/")
        finally:
            holder.kill()


@pytest.fixture(scope="module")
def confined(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Confined]:
    folder = tmp_path_factory.mktemp("confined")
    with small_file_systems(folder) as (within, root):
        served = Served(repository, folder, within)
        try:
            served.wait_ready()
            state = root / folder.relative_to("/") / ".state"
            yield Confined(served, state, root / "dev" / "shm")
        finally:
            served.process.kill()


@pytest.fixture
def served(confined: Confined) -> Served:
    return confined.served


def fail_and_recover(served: Served, frame: Path, fail: object, *lost: psutil.Process) -> float:
    """Let something fail while frames stream; returns the seconds until the service recovered.

    Args:
        fail: called once frames are answered.
        lost: processes that must be gone afterwards.
    """
    assert callable(fail)
    with Callers(served, frame) as callers:
        callers.wait_answered(GOOD_FRAMES, time.monotonic(), WHOLE_S)
        failed = time.monotonic()
        fail()
        # Frames may still be answered for a moment after it: the last failure counts.
        whole_s = settled(callers, failed)
    callers.assert_typed_and_bounded(FAILURES)
    assert httpx.get(f"{served.http_url}/readyz", timeout=10).status_code == 200
    assert not living(lost)
    return whole_s


def settled(callers: Callers, failed: float) -> float:
    """Wait until a failure is over: seconds from it to the first of the frames answered again."""
    deadline = time.monotonic() + WHOLE_S
    while not [answer for answer in callers.failures() if answer.sent + answer.took_s > failed]:
        assert time.monotonic() < deadline, "nothing failed"
        time.sleep(0.05)
    while True:
        whole_s = callers.wait_answered(GOOD_FRAMES, failed, WHOLE_S)
        time.sleep(1)
        if callers.wait_answered(GOOD_FRAMES, failed, WHOLE_S) == whole_s:
            return whole_s


def test_triton_is_killed(served: Served, frame: Path) -> None:
    triton = served.part("bin/tritonserver")
    stubs = triton.children(recursive=True)
    print(fail_and_recover(served, frame, triton.kill, triton, *stubs))
    # The probe may find it gone before its process is.
    assert re.search(r"(ended|broken) part=triton attempt=1 next_try_s=0\.0 why=", served.output)


@pytest.mark.parametrize("instance", [f"{NETWORK}_0_0", f"{NETWORK}_1_0"])
def test_a_stub_is_killed(served: Served, frame: Path, instance: str) -> None:
    triton, stub = served.part("bin/tritonserver"), served.part(instance)
    log = len(served.output)

    def kill() -> None:
        stub.kill()
        # The other instance may answer until the supervisor sees that one is gone.
        wait_for(served, "restarted part=", log)

    print(fail_and_recover(served, frame, kill, triton, stub))
    assert "an instance of a model has ended" in served.output[log:]


# A frozen merge stops the probe itself; with a frozen network, the other instance answers it.
@pytest.mark.parametrize(
    ("instance", "noticed"),
    [
        ("merge_0_0", (FROZEN, "is not healthy")),
        (f"{NETWORK}_1_0", (FROZEN,)),
    ],
)
def test_a_stub_is_frozen(served: Served, instance: str, noticed: tuple[str, ...]) -> None:
    triton, stub = served.part("bin/tritonserver"), served.part(instance)
    # No caller uses either instance now.
    log = len(served.output)
    stub.suspend()
    wait_for(served, "restarted part=", log)
    assert any(why in served.output[log:] for why in noticed)
    assert not living([triton, stub])


def test_triton_is_frozen(served: Served, frame: Path) -> None:
    triton = served.part("bin/tritonserver")
    print(fail_and_recover(served, frame, triton.suspend, triton))
    assert "broken part=triton" in served.output


def test_the_gateway_is_killed(served: Served, frame: Path) -> None:
    gateway = served.gateway
    print(fail_and_recover(served, frame, gateway.kill, gateway))
    assert "ended part=gateway" in served.output


def test_the_gateway_hangs(served: Served, frame: Path) -> None:
    gateway = served.gateway
    print(fail_and_recover(served, frame, gateway.suspend, gateway))
    assert "why='no answer from the gateway" in served.output


def test_the_supervisor_is_killed(served: Served, frame: Path) -> None:
    supervisor, *_ = family = served.family()
    assert "serving.supervision" in supervisor.cmdline()
    print(fail_and_recover(served, frame, supervisor.kill, *family))
    assert "ended part=supervisor" in served.output


def test_the_supervisor_is_frozen(served: Served, frame: Path) -> None:
    supervisor, *_ = family = served.family()
    print(fail_and_recover(served, frame, supervisor.suspend, *family))
    assert "ended part=supervisor" in served.output
    assert "no sign of life" in served.output


def test_the_disk_is_full(confined: Confined, frame: Path) -> None:
    served = confined.served
    with filled(confined.state), Callers(served, frame) as callers:
        callers.wait_answered(20, time.monotonic(), WHOLE_S)
        assert not callers.failures()
        failed = time.monotonic()
        for part in (served.part("bin/tritonserver"), served.gateway):
            part.kill()
        print(settled(callers, failed))
    callers.assert_typed_and_bounded(FAILURES)


def test_shared_memory_is_full(
    confined: Confined, frame: Path, fluorescence_16bit: Path, histology: Path
) -> None:
    served = confined.served
    with Client(served.grpc_address) as client, httpx.Client() as http:
        with filled(confined.memory), Callers(served, frame) as callers:
            allowed = {"", *(kind.__name__ for kind in FAILURES)}
            for path in (fluorescence_16bit, histology) * 2:
                assert over_grpc(client, path.read_bytes()).error in allowed
                assert over_http(http, served.http_url, path.read_bytes()).error in allowed
            time.sleep(3)
        callers.assert_typed_and_bounded(FAILURES)
    freed = time.monotonic()
    with Callers(served, fluorescence_16bit) as callers:
        print(callers.wait_answered(GOOD_FRAMES, freed, WHOLE_S))
    callers.assert_typed_and_bounded(FAILURES)


def test_callers_that_vanish_hold_nothing(confined: Confined, frame: Path, histology: Path) -> None:
    served = confined.served
    gateway = served.gateway
    held_mib = []
    with Callers(served, frame) as callers:
        for _ in range(3):
            vanish_amid_work(served, histology)
            callers.wait_answered(GOOD_FRAMES, time.monotonic(), WHOLE_S)
            held_mib.append(gateway.memory_info().rss / 2**20)
    callers.assert_typed_and_bounded([Overloaded])
    assert held_mib[-1] < held_mib[0] + 100, held_mib
    deadline = time.monotonic() + WHOLE_S
    while held := in_flight(served):
        assert time.monotonic() < deadline, held
        time.sleep(0.1)


def test_what_was_accepted_is_answered_when_it_is_stopped(
    confined: Confined, frame: Path, histology: Path
) -> None:
    """Must be the last test that uses this service."""
    served = confined.served
    family = served.family()
    slow = SlowFrames(served, histology)
    with Callers(served, frame) as callers:
        callers.wait_answered(GOOD_FRAMES, time.monotonic(), WHOLE_S)
        slow.start()
        time.sleep(0.3)
        served.process.terminate()
        assert served.finish() == 0, served.output
        time.sleep(1)
    assert slow.outcomes() == [""] * 4
    callers.assert_typed_and_bounded([EngineUnavailable])
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{served.http_url}/livez")
    assert not living(family)
    assert not regions(served.triton_metrics_port, confined.memory)


def test_the_guard_is_killed(repository: Path, tmp_path: Path, frame: Path) -> None:
    served = Served(repository, tmp_path)
    try:
        served.wait_ready()
        family = served.family()
        with Callers(served, frame) as callers:
            callers.wait_answered(GOOD_FRAMES, time.monotonic(), WHOLE_S)
            served.process.kill()
            deadline = time.monotonic() + WHOLE_S
            while living(family):
                assert time.monotonic() < deadline, living(family)
                time.sleep(0.1)
        callers.assert_typed_and_bounded([EngineUnavailable])
        assert not regions(served.triton_metrics_port)
    finally:
        served.process.kill()


class SlowFrames:
    """Frames that take a while, two over each protocol."""

    def __init__(self, served: Served, frame: Path) -> None:
        self._served = served
        self._frame = frame.read_bytes()
        self._outcomes: list[str] = []
        self._threads = [
            threading.Thread(target=each, daemon=True) for each in (self._grpc, self._http) * 2
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def outcomes(self) -> list[str]:
        for thread in self._threads:
            thread.join(WHOLE_S)
        return self._outcomes

    def _grpc(self) -> None:
        with Client(self._served.grpc_address) as client:
            self._outcomes.append(over_grpc(client, self._frame).error)

    def _http(self) -> None:
        with httpx.Client() as http:
            self._outcomes.append(over_http(http, self._served.http_url, self._frame).error)


STREAM = """
import sys, threading, time
from pathlib import Path
from nuclei.client import Client
frame = Path(sys.argv[2]).read_bytes()
def frames():
    while True:
        yield frame
client = Client(sys.argv[1])
def call():
    for each in frames():
        client.segment(each, outputs=["labels"])
threading.Thread(target=call, daemon=True).start()
for outcome in client.stream(frames(), outputs=["labels", "polygons"]):
    print("answered", flush=True)
    time.sleep(0.2)
"""


def vanish_amid_work(served: Served, frame: Path) -> None:
    """A caller with an open stream and a call is killed."""
    command = [sys.executable, "-c", STREAM, served.grpc_address, str(frame)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        for _ in range(2):
            assert caller.stdout.readline() == b"answered\n"
        caller.kill()


def in_flight(served: Served) -> dict[str, float]:
    """What the gateway holds for frames, by metric; zeros are left out."""
    lines = httpx.get(f"{served.http_url}/metrics", timeout=10).text.splitlines()
    values = dict(line.split(" ")[:2] for line in lines if not line.startswith("#"))
    names = ("nuclei_frames_in_flight", "nuclei_in_flight_bytes", "nuclei_frames_in_work")
    return {name: float(values[name]) for name in names if float(values[name])}


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[None]:
    """A file system filled to its last byte."""
    if shutil.disk_usage(folder).total > STATE_MIB * 2**20:
        pytest.skip("this kernel allows us no file system of our own to fill")
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (2**20, 2**12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"\0" * size)
        with pytest.raises(OSError, match=str(errno.ENOSPC)) as raised:
            (folder / "one more").write_bytes(b"\0" * 2**12)
        assert raised.value.errno == errno.ENOSPC
        (folder / "one more").unlink()
        yield
    finally:
        filler.unlink()


def wait_for(served: Served, text: str, since: int) -> None:
    deadline = time.monotonic() + WHOLE_S
    while text not in served.output[since:]:
        assert time.monotonic() < deadline, served.output[since:]
        time.sleep(0.1)
