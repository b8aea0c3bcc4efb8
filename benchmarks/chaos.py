"""Random failures of `nuclei serve` under load, and how the service comes back from each.

PYTHONPATH=. .venv/bin/python benchmarks/chaos.py                  (200 failures)
PYTHONPATH=. .venv/bin/python benchmarks/chaos.py --count 20 --seed 7

Processes are killed (SIGKILL), frozen (SIGSTOP), or killed while the disk of the state folder is
full, as callers send frames over gRPC, a stream and HTTP. A failure is over when the process is
gone and three frames in a row of each caller were answered well; one that no caller noticed has no
time. Those that took longer than the goal are printed with what the service said. Ctrl-C ends it
early, with a summary of what was until then. Exits with 1 when something was wrong: a failure that
was not over in two minutes, a call that ended without an error of ours, an answer that took too
long, something left (processes, shared memory, sockets, files).
"""

import argparse
import contextlib
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from served import example_pixels

from nuclei import errors
from nuclei.process.child import MARK
from tests.serving.callers import ANSWERED_S, Answer, Callers
from tests.serving.leftovers import living, regions
from tests.serving.served import Served
from tests.shipped import NETWORK

ROOT = Path(__file__).parents[1]
SIDE_PX = 512
DISK_MIB = 64
# Of each caller, answered well after a failure.
GOOD_FRAMES = 3
# Longest time for a failure to be over, and for the callers to notice it at all.
WHOLE_S = 120.0
NOTICE_S = 12.0
# What takes longer is shown.
GOAL_S = 15.0
# Quiet time between two failures.
PAUSE_S = (0.5, 5.0)


# By name, how the process of a running service is found.
PARTS: dict[str, Callable[[Served], psutil.Process]] = {
    "supervisor": lambda served: served.part("serving.supervision"),
    "gateway": lambda served: served.gateway,
    "Triton": lambda served: served.part("bin/tritonserver"),
    "a network's stub": lambda served: served.part(f"{NETWORK}_0_0"),
    "the merge's stub": lambda served: served.part("merge_0_0"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200, help="failures [200]")
    parser.add_argument("--seed", type=int, default=0, help="of their order [0]")
    arguments = parser.parse_args()
    console = Console(soft_wrap=True)
    with disk() as state, tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        frame = _corner(Path(folder))
        served = Served(
            ROOT / "model_repository", Path(folder), NUCLEI_STATE=str(state), TMPDIR=str(scratch)
        )
        try:
            served.wait_ready()
            mark = served.part("serving.supervision").environ()[MARK]
            files = {path for path in state.rglob("*") if path.is_file()}
            recoveries: dict[str, list[float]] = defaultdict(list)
            with Callers(served, frame) as callers, contextlib.suppress(KeyboardInterrupt):
                _chaos(served, callers, state, arguments, console, recoveries)
            served.process.terminate()
            exit_code = served.finish()
        finally:
            served.process.kill()
        left = [
            *_marked(mark),
            *regions(served.triton_metrics_port),
            *_new_files(state, files),
            *scratch.rglob("*"),
        ]
    console.print(_table(recoveries))
    wrong = [exit_code, *left, *_report(callers.answers, console)]
    console.print(f"left: {left or 'nothing'}; exit code {exit_code}", markup=False)
    console.print(f"load average {os.getloadavg()[1]:.1f} on {os.cpu_count()} processors")
    sys.exit(any(wrong) or any(math.inf in seconds for seconds in recoveries.values()))


def _chaos(
    served: Served,
    callers: Callers,
    state: Path,
    arguments: argparse.Namespace,
    console: Console,
    recoveries: dict[str, list[float]],
) -> None:
    """Add seconds to recover by part and failure, 0 where no caller noticed; ends early at one that
    is not over in time.
    """
    choice = random.Random(arguments.seed)
    callers.wait_answered(GOOD_FRAMES, time.monotonic(), WHOLE_S)
    for number in range(arguments.count):
        part = choice.choice(list(PARTS))
        how = choice.choice(("killed", "killed", "frozen", "full disk"))
        said = len(served.output)
        try:
            with _filled(state) if how == "full disk" else contextlib.nullcontext():
                seconds = _fail(PARTS[part](served), callers, how)
        except AssertionError as error:
            console.print(error, markup=False)
            seconds = math.inf
        recoveries[f"{part}, {how}"].append(seconds)
        console.print(f"{number + 1:4} {part}, {how}: {seconds:.1f} s")
        if seconds > GOAL_S:
            console.print(served.output[said:], markup=False)
        if seconds == math.inf:
            break
        time.sleep(choice.uniform(*PAUSE_S))


def _fail(process: psutil.Process, callers: Callers, how: str) -> float:
    """Let a process fail, and wait until that is over; seconds from the failure."""
    failed = time.monotonic()
    if how == "frozen":
        process.suspend()
    else:
        process.kill()
    while living([process]):
        assert time.monotonic() - failed < WHOLE_S, f"{process} was not replaced"
        time.sleep(0.1)
    # Frames may be answered for a moment after it; the last failure counts.
    while True:
        noticed = _last_failure(callers, failed)
        whole_s = callers.wait_answered(GOOD_FRAMES, noticed, WHOLE_S)
        if _last_failure(callers, failed) == noticed and (
            noticed > failed or time.monotonic() - failed > NOTICE_S
        ):
            return noticed + whole_s - failed if noticed > failed else 0.0
        time.sleep(0.2)


def _last_failure(callers: Callers, since: float) -> float:
    """When the last frame failed, by the monotonic clock; `since` if none did after that."""
    return max([since, *(each.sent + each.took_s for each in callers.failures())])


def _report(answers: list[Answer], console: Console) -> list[Answer]:
    """Print the slowest answers, and what no caller should get, which is returned."""
    known = {"", *(name for name in vars(errors) if name[0].isupper())} - {"InternalError"}
    untyped = [each for each in answers if each.error not in known]
    late = [each for each in answers if each.took_s > ANSWERED_S[each.caller]]
    slowest = {
        caller: max((each.took_s for each in answers if each.caller == caller), default=0.0)
        for caller in ANSWERED_S
    }
    console.print(
        f"{len(answers)} answers; slowest: "
        + ", ".join(f"{caller} {seconds:.1f} s" for caller, seconds in slowest.items())
        + f"; too late: {len(late)}; ends without an error of ours: {len(untyped)}"
    )
    for each in [*untyped, *late][:10]:
        console.print(str(each), markup=False)
    return [*untyped, *late]


def _marked(mark: str) -> list[psutil.Process]:
    """The processes of a service that still run, whoever their parents are now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK, "").startswith(mark):
                found.append(process)
    return living(found)


def _new_files(state: Path, before: set[Path]) -> list[Path]:
    """Files and sockets in a state folder, besides those before and logs that were moved aside."""
    found = {path for path in state.rglob("*") if not path.is_dir()} - before
    return sorted(path for path in found if path.suffix != ".1")


def _table(recoveries: dict[str, list[float]]) -> Table:
    table = Table("failure", "times", "unnoticed", "p50, s", "p90, s", "max, s")
    every = [second for seconds in recoveries.values() for second in seconds]
    for name, seconds in [*sorted(recoveries.items()), ("all", every)]:
        noticed = [second for second in seconds if second]
        ranks = np.percentile(noticed, (50, 90, 100)) if noticed else ()
        unnoticed = len(seconds) - len(noticed)
        table.add_row(
            name, *map(str, (len(seconds), unnoticed)), *(f"{each:.1f}" for each in ranks)
        )
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
