"""Random failures of `nuclei serve` under load, and how the service comes back from each.

PYTHONPATH=. .venv/bin/python benchmarks/chaos.py                  (200 failures)
PYTHONPATH=. .venv/bin/python benchmarks/chaos.py --count 20 --seed 7

Processes are killed (SIGKILL), frozen (SIGSTOP), or killed while the disk of the state folder is
full, as callers send frames over gRPC, a stream and HTTP. A failure is over when the process is
gone and three frames in a row of each caller were answered well. Exits with 1 when something was
wrong: a call that ended without an error of ours, an answer that took too long, something left.
"""

import argparse
import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import cv2
import psutil
from rich.console import Console
from rich.table import Table
from served import example_pixels

from nuclei import errors
from tests.serving.callers import ANSWERED_S, Answer, Callers
from tests.serving.leftovers import living, regions
from tests.serving.served import Served

ROOT = Path(__file__).parents[1]
SIDE_PX = 256
DISK_MIB = 64
# Of each caller, answered well after a failure.
GOOD_FRAMES = 3
# Longest time for a failure to be over, and for the callers to notice it at all.
WHOLE_S = 120.0
NOTICE_S = 12.0
# Quiet time between two failures.
PAUSE_S = (0.5, 5.0)


@dataclass(frozen=True)
class Part:
    """A process of the service, by words of its command line."""

    name: str
    words: tuple[str, ...]


PARTS = (
    Part("supervisor", ("serving.supervision",)),
    Part("gateway", ("serving.gateway",)),
    Part("Triton", ("bin/tritonserver",)),
    Part("a network's stub", ("unet_network.3_0_0",)),
    Part("the merge's stub", ("merge_0_0",)),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200, help="failures [200]")
    parser.add_argument("--seed", type=int, default=0, help="of their order [0]")
    arguments = parser.parse_args()
    console = Console()
    with disk() as state, tempfile.TemporaryDirectory() as folder:
        frame = _corner(Path(folder))
        served = Served(ROOT / "model_repository", Path(folder), NUCLEI_STATE=str(state))
        try:
            served.wait_ready()
            recoveries, answers, lost = _chaos(served, frame, state, arguments, console)
            family = served.family()
            served.process.terminate()
            exit_code = served.finish()
            left = [*living([*lost, *family]), *regions(served.triton_metrics_port)]
        finally:
            served.process.kill()
        sockets = [path for path in state.rglob("*") if path.is_socket()]
    console.print(_table(recoveries))
    bad = _bad(answers)
    console.print(
        f"{len(answers)} answers; slowest {max(each.took_s for each in answers):.1f} s; "
        f"ends without an error of ours: {len(bad)}; exit code {exit_code}; "
        f"left: {[*left, *sockets] or 'nothing'}"
    )
    for each in bad[:10]:
        console.print(str(each), markup=False)
    sys.exit(bool(bad or left or sockets or exit_code))


def _chaos(
    served: Served, frame: Path, state: Path, arguments: argparse.Namespace, console: Console
) -> tuple[dict[str, list[float]], list[Answer], list[psutil.Process]]:
    """Seconds to recover by part and failure, all answers, and the processes that must be gone."""
    choice = random.Random(arguments.seed)
    recoveries: dict[str, list[float]] = defaultdict(list)
    lost: list[psutil.Process] = []
    with Callers(served, frame) as callers:
        callers.wait_answered(GOOD_FRAMES, time.monotonic(), WHOLE_S)
        for number in range(arguments.count):
            part = choice.choice(PARTS)
            how = choice.choice(("killed", "killed", "frozen", "full disk"))
            process = served.part(*part.words)
            with _filled(state) if how == "full disk" else contextlib.nullcontext():
                failed = time.monotonic()
                if how == "frozen":
                    process.suspend()
                else:
                    process.kill()
                seconds = _recovered(served, callers, process, failed)
            lost.append(process)
            recoveries[f"{part.name}, {how}"].append(seconds)
            console.print(f"{number + 1:4} {part.name}, {how}: {seconds:.1f} s")
            time.sleep(choice.uniform(*PAUSE_S))
    return recoveries, callers.answers, lost


def _recovered(served: Served, callers: Callers, process: psutil.Process, failed: float) -> float:
    """Wait until the process is gone and all frames are answered; seconds from the failure."""
    while living([process]):
        if time.monotonic() - failed > WHOLE_S:
            sys.exit(f"{process} was not replaced:\n{served.output}")
        time.sleep(0.1)
    # Frames may be answered for a moment after it; the last failure counts.
    while True:
        noticed = max([failed, *(a.sent + a.took_s for a in callers.failures())])
        whole_s = callers.wait_answered(GOOD_FRAMES, noticed, WHOLE_S)
        last = max([failed, *(a.sent + a.took_s for a in callers.failures())])
        if last == noticed and (noticed > failed or time.monotonic() - failed > NOTICE_S):
            return noticed + whole_s - failed if noticed > failed else 0.0
        time.sleep(0.2)


def _bad(answers: list[Answer]) -> list[Answer]:
    """Answers that no caller should get: not an error of ours, or too late."""
    known = {"", *(name for name in vars(errors) if name[0].isupper())} - {"InternalError"}
    return [
        each for each in answers if each.error not in known or each.took_s > ANSWERED_S[each.caller]
    ]


def _table(recoveries: dict[str, list[float]]) -> Table:
    table = Table("failure", "times", "p50, s", "max, s")
    for name, seconds in sorted(recoveries.items()):
        table.add_row(name, str(len(seconds)), f"{median(seconds):.1f}", f"{max(seconds):.1f}")
    every = [second for seconds in recoveries.values() for second in seconds]
    table.add_row("all", str(len(every)), f"{median(every):.1f}", f"{max(every):.1f}")
    return table


def _corner(folder: Path) -> Path:
    """A corner of a real frame: the time is that of the service, not of the frame."""
    path = folder / "corner.png"
    cv2.imwrite(str(path), example_pixels(SIDE_PX))
    return path


@contextlib.contextmanager
def disk() -> Iterator[Path]:
    """A folder on a small file system of its own, which needs root; a plain folder otherwise."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        shutil.rmtree(folder)


@contextlib.contextmanager
def _filled(folder: Path) -> Iterator[None]:
    """The file system filled to its last page; nothing happens where it is not small."""
    filler = folder / "filler"
    try:
        if shutil.disk_usage(folder).total <= DISK_MIB * 2**20:
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * 4096)
        yield
    finally:
        filler.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
