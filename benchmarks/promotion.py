"""Promotions and rollbacks while frames are segmented: is any lost, mixed, or slower?

PYTHONPATH=. .venv-train/bin/python benchmarks/promotion.py                  (50 swaps)
PYTHONPATH=. .venv-train/bin/python benchmarks/promotion.py --server         (MLflow's webhooks)
PYTHONPATH=. .venv-train/bin/python benchmarks/promotion.py --kill --count 100 --seed 7

Three versions of the shipped model, whose networks find more or less foreground, are swapped in
`nuclei serve --sync`, as callers send a frame of several tiles over gRPC, a stream and HTTP. Each
answer is compared, quarter by quarter of the frame, with what each version gives in this process,
and its version with those that could answer at that time. The registry is a SQLite database that is
polled; with `--server` an MLflow server, whose webhooks alone tell sync that something changed.
Ctrl-C ends it early, with a summary.

With `--kill`, sync, Triton, the gateway or the MLflow server are killed (SIGKILL) at a random
moment after each change, while calls may fail with an error of ours; then each caller has to be
answered by the version that the registry names.

Prints seconds from the change to the first frame by the new version, latencies while swapping and
between swaps, and what the service holds at the start and at the end. Exits with 1 when a frame
failed without a kill, or was of a wrong or mixed version, or a change was lost.
"""

import argparse
import contextlib
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import httpx
import numpy as np
import onnx
import psutil
from mlflow import MlflowClient
from mlflow.entities.webhook import WebhookEvent
from rich.console import Console
from rich.table import Table
from served import ROOT, example_pixels
from soak import sample

from nuclei.errors import NucleiError
from nuclei.imaging.images import read_frame
from nuclei.inference.contract import CONTRACT_FILE, Contract
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.reference import write_references
from nuclei.inference.routing import Routing
from nuclei.process.ports import LOOPBACK, free_ports
from serving.promotion.changes import promote
from serving.promotion.state import read_state
from serving.registry import Registry
from serving.repository.export import collect_artifacts, export_version, set_routing
from tests.serving.callers import Answer, Callers
from tests.serving.promotion.servers import MLFLOW
from tests.serving.promotion.swaps import (
    FAMILY,
    MIXED,
    MODEL,
    Foregrounds,
    Swap,
    Swapping,
    of_wrong_version,
    register,
)
from tests.serving.served import Served

SHIPPED = ROOT / "model_repository"
# Of a frame that has four tiles: one that the versions share would be noticed.
SIDE_PX, TILE_PX, HALO_PX = 256, 160, 32
# Added to the network's answers before the sigmoid.
SHIFTS = (0.0, 1.0, -1.0)
# Of the name of what the network adds last.
LAST_BIAS = "segmentation_head.0.bias"
SECRET = "a secret of the benchmark"
RETIRE_S = 2.0
PAUSE_S = (1.0, 4.0)
# Share of the swaps.
ROLLBACKS = 0.4
# Before a version changes, and once all is over: what the service holds is compared.
WARM_UP_SWAPS = 4
# An MLflow server on a busy machine takes minutes to start.
START_S = WHOLE_S = 300.0
# Fetches and proves a version before Triton starts.
READY_S = 300.0
GOOD_FRAMES = 3
# By name, how the process of a running service is found.
KILLED: dict[str, Callable[[Served], psutil.Process]] = {
    "sync": lambda served: served.part("serving.promotion"),
    "Triton": lambda served: served.part("bin/tritonserver"),
    "gateway": lambda served: served.gateway,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=50, help="promotions and rollbacks [50]")
    parser.add_argument("--seed", type=int, default=0, help="of their order [0]")
    parser.add_argument("--server", action="store_true", help="MLflow server and webhooks")
    parser.add_argument("--kill", action="store_true", help="kill parts; implies --server")
    arguments = parser.parse_args()
    console = Console(soft_wrap=True)
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        frame = folder / "frame.png"
        cv2.imwrite(str(frame), example_pixels(SIDE_PX))
        artifacts = [_artifacts(folder, n, shift, frame) for n, shift in enumerate(SHIFTS, 1)]
        judge = Foregrounds(artifacts, frame).judge
        server = None
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        if arguments.server or arguments.kill:
            server = stack.enter_context(MlflowServer(folder))
            uri = server.uri
        registry = Registry(uri)
        register(registry, artifacts)
        served = _service(folder, uri, server)
        try:
            served.wait_ready(READY_S)
            with Callers(served, frame, judge) as callers:
                callers.wait_answered(GOOD_FRAMES, time.monotonic(), WHOLE_S)
                if arguments.kill:
                    wrong = _with_kills(registry, served, callers, server, arguments, console)
                else:
                    wrong = _without(registry, served, callers, folder, arguments, console)
            served.process.terminate()
            exit_code = served.finish()
        finally:
            served.process.kill()
    console.print(f"exit code of the service {exit_code}")
    console.print(f"load average {os.getloadavg()[1]:.1f} on {os.cpu_count()} processors")
    sys.exit(bool(wrong or exit_code))


class MlflowServer:
    """An MLflow server, which sends webhooks to `hook_port` while it runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (self._port,) = free_ports(1)
        self.uri = f"http://{LOOPBACK}:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "MlflowServer":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it; returns once it answers."""
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK),
            *("--port", str(self._port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}"),
            *("--artifacts-destination", str(self._folder / "files")),
        ]
        with (self._folder / "mlflow.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env={**os.environ, **MLFLOW}, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.uri}/health").status_code == 200:
                    return
            if self._process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"MLflow did not start:\n{(self._folder / 'mlflow.log').read_text()}")
            time.sleep(0.2)

    def send_webhooks(self, port: int) -> None:
        """Let it tell sync of aliases that move."""
        MlflowClient(self.uri, self.uri).create_webhook(
            "sync",
            f"http://{LOOPBACK}:{port}/webhook",
            [WebhookEvent.from_str("model_version_alias.created")],
            secret=SECRET,
        )

    def kill(self) -> None:
        """Kill it and the process that serves for it."""
        assert self._process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in psutil.Process(self._process.pid).children(recursive=True):
                each.kill()
        self._process.kill()
        self._process.wait()


def _artifacts(folder: Path, number: int, shift: float, frame: Path) -> Path:
    """The shipped model as training registers it, with small tiles and a shifted network."""
    artifacts = folder / "artifacts" / str(number)
    artifacts.mkdir(parents=True)
    champion = LocalEngine(SHIPPED).find(FAMILY)
    collect_artifacts(SHIPPED, FAMILY, int(champion.version), artifacts)
    network = onnx.load(artifacts / "network.onnx")
    for bias in network.graph.initializer:
        if bias.name.endswith(LAST_BIAS):
            values = (onnx.numpy_helper.to_array(bias) + shift).astype(np.float32)
            bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(network, artifacts / "network.onnx")
    contract = Contract.read(artifacts / CONTRACT_FILE)
    changed = contract.__class__(
        **{**vars(contract), "tile_size": TILE_PX, "halo": HALO_PX, "held_out": ()}
    )
    (artifacts / CONTRACT_FILE).write_text(changed.to_json())
    _write_reference(artifacts, changed, frame)
    return artifacts


def _write_reference(artifacts: Path, contract: Contract, frame: Path) -> None:

    with tempfile.TemporaryDirectory() as scratch:
        repository = Path(scratch)
        export_version(artifacts, repository, 1)
        set_routing(repository, FAMILY, Routing(1))
        engine = LocalEngine(repository)
        write_references([read_frame(frame).pixels], engine, engine.find(FAMILY), artifacts)


def _service(folder: Path, uri: str, server: MlflowServer | None) -> Served:
    """`nuclei serve --sync`; with a server, only webhooks tell sync of a change in time."""
    (port,) = free_ports(1)
    settings = {
        "NUCLEI_SYNC": uri,
        "NUCLEI_SYNC_PORT": str(port),
        "NUCLEI_SYNC_RETIRE_S": str(RETIRE_S),
    }
    if server is not None:
        server.send_webhooks(port)
        settings |= {"NUCLEI_SYNC_WEBHOOK_SECRET": SECRET, "NUCLEI_SYNC_INTERVAL_S": "60"}
    run = folder / "service"
    run.mkdir()
    return Served(SHIPPED, run, **settings)


def _order(arguments: argparse.Namespace) -> Iterator[tuple[random.Random, int]]:
    """For each swap what decides, and how much to add to the champion for the next version."""
    choice = random.Random(arguments.seed)
    for _ in range(arguments.count):
        yield choice, choice.randint(1, len(SHIFTS) - 1)


def _without(
    registry: Registry,
    served: Served,
    callers: Callers,
    folder: Path,
    arguments: argparse.Namespace,
    console: Console,
) -> bool:
    """Swap, and print; whether anything was wrong."""
    swapping = Swapping(registry, callers)
    begin: dict[str, float] = {}
    with contextlib.suppress(KeyboardInterrupt):
        for number, (choice, step) in enumerate(_order(arguments)):
            if number == min(WARM_UP_SWAPS, arguments.count - 1):
                begin = _held(served, folder)
            swap = _swap(swapping, choice, step)
            console.print(
                f"{number + 1:4} {swap.action} {swap.before} to {swap.after}: "
                f"{swap.seen - swap.asked:.1f} s"
            )
            time.sleep(choice.uniform(*PAUSE_S))
    time.sleep(2 * RETIRE_S)
    end = _held(served, folder)
    answers = list(callers.answers)
    failed = [each for each in answers if each.error and each.error != MIXED]
    mixed = [each for each in answers if each.error == MIXED]
    wrong = of_wrong_version(answers, swapping.swaps)
    console.print(_seconds(swapping.swaps))
    console.print(_latencies(answers, swapping.swaps))
    console.print(_growth(begin, end))
    console.print(
        f"{len(answers)} frames: failed {len(failed)}, of mixed versions {len(mixed)}, of a wrong "
        f"version {len(wrong)}"
    )
    for each in [*failed, *mixed, *wrong][:10]:
        console.print(str(each), markup=False)
    return bool(failed or mixed or wrong)


def _swap(swapping: Swapping, choice: random.Random, step: int) -> Swap:
    """Promote another version, or go back where there is something to go back to."""
    done = swapping.swaps
    promoted = sum(1 if swap.action == "promote" else -1 for swap in done)
    if promoted and choice.random() < ROLLBACKS:
        return swapping.rollback()
    champion = done[-1].after if done else 1
    return swapping.promote((champion - 1 + step) % len(SHIFTS) + 1)


def _with_kills(
    registry: Registry,
    served: Served,
    callers: Callers,
    server: MlflowServer | None,
    arguments: argparse.Namespace,
    console: Console,
) -> bool:
    """Promote and kill, and print; whether anything was wrong."""
    assert server is not None
    champion, lost = 1, 0
    seconds: dict[str, list[float]] = {}
    with contextlib.suppress(KeyboardInterrupt):
        for number, (choice, step) in enumerate(_order(arguments)):
            champion = (champion - 1 + step) % len(SHIFTS) + 1
            part = choice.choice((*KILLED, "MLflow"))
            asked = time.monotonic()
            _insist(registry, champion)
            time.sleep(choice.uniform(0, 6))
            if part == "MLflow":
                server.kill()
                server.start()
            else:
                with contextlib.suppress(LookupError):
                    KILLED[part](served).kill()
            took = _converged(callers, champion, asked)
            lost += not math.isfinite(took) or read_state(registry, MODEL).champion != champion
            seconds.setdefault(part, []).append(took)
            console.print(f"{number + 1:4} to {champion}, {part} killed: {took:.1f} s")
            if lost:
                console.print(served.output[-5000:], markup=False)
                break
    console.print(_recoveries(seconds))
    answers = list(callers.answers)
    mixed = [each for each in answers if each.error == MIXED]
    errors = sorted({each.error for each in answers if each.error})
    console.print(
        f"{len(answers)} frames: failed {sum(bool(each.error) for each in answers)} ({errors}), "
        f"of mixed versions {len(mixed)}; changes lost: {lost}",
        markup=False,
    )
    return bool(mixed or lost)


def _insist(registry: Registry, version: int) -> None:
    """Promote, again when the registry was not there: it is idempotent."""
    deadline = time.monotonic() + WHOLE_S
    while True:
        try:
            promote(registry, MODEL, version, why="swap")
        except NucleiError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


def _converged(callers: Callers, champion: int, asked: float) -> float:
    """Seconds until each caller's last frames were answered by the champion."""
    while time.monotonic() < asked + WHOLE_S:
        recent = callers.answers_since(asked)
        last = {
            name: [e for e in recent if e.caller == name] for name in ("grpc", "http", "stream")
        }
        runs = [each[-GOOD_FRAMES:] for each in last.values()]
        if all(
            len(run) == GOOD_FRAMES and all(e.version == champion and not e.error for e in run)
            for run in runs
        ):
            return max(run[0].sent + run[0].took_s for run in runs) - asked
        time.sleep(0.1)
    return math.inf


def _held(served: Served, folder: Path) -> dict[str, float]:
    """Memory, threads and files of the service by part, and the disk of its state folder."""
    state = folder / "service" / ".state"
    files = [path.stat() for path in state.rglob("*") if path.is_file()]
    held = sample(served.process.pid)
    held["disk_mb"] = sum(each.st_blocks * 512 for each in files) / 2**20
    held["disk_files"] = len(files)
    return held


def _seconds(swaps: Sequence[Swap]) -> Table:
    table = Table("from the change to", "swaps", "p50, s", "p90, s", "max, s")
    for action in ("promote", "rollback"):
        some = [swap for swap in swaps if swap.action == action]
        for what, times in (
            ("the registry", [swap.noted - swap.asked for swap in some]),
            ("the first frame", [swap.seen - swap.asked for swap in some]),
        ):
            if times:
                ranks = np.percentile(times, (50, 90, 100))
                table.add_row(f"{action}: {what}", str(len(times)), *(f"{r:.2f}" for r in ranks))
    return table


def _latencies(answers: Sequence[Answer], swaps: Sequence[Swap]) -> Table:
    """Of frames in work between a change and the first frame by the new version, and of others."""
    table = Table("caller", "", "frames", "p50, ms", "p99, ms")
    for caller in ("grpc", "stream", "http"):
        by = [each for each in answers if each.caller == caller and not each.error]
        swapping = [each for each in by if _in_a_swap(each, swaps)]
        steady = [each for each in by if not _in_a_swap(each, swaps)]
        for name, some in (("steady", steady), ("swapping", swapping)):
            if some:
                ranks = np.percentile([each.took_s * 1000 for each in some], (50, 99))
                table.add_row(caller, name, str(len(some)), *(f"{rank:.0f}" for rank in ranks))
    return table


def _in_a_swap(answer: Answer, swaps: Sequence[Swap]) -> bool:
    end = answer.sent + answer.took_s
    return any(end >= swap.asked and answer.sent <= swap.seen for swap in swaps)


def _growth(begin: dict[str, float], end: dict[str, float]) -> Table:
    table = Table("", "at the start", "at the end")
    for name in sorted({*begin, *end}):
        table.add_row(name, *(f"{held.get(name, 0.0):.1f}" for held in (begin, end)))
    return table


def _recoveries(seconds: dict[str, list[float]]) -> Table:
    table = Table("killed", "times", "p50, s", "max, s")
    for part, took in sorted(seconds.items()):
        ranks = np.percentile(took, (50, 100))
        table.add_row(part, str(len(took)), *(f"{rank:.1f}" for rank in ranks))
    return table


if __name__ == "__main__":
    main()
