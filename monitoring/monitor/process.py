"""The process of `nuclei monitor`: programs and page side by side, until Ctrl-C."""

import asyncio
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

import uvicorn
from rich.console import Group
from rich.table import Table
from rich.text import Text
from starlette.applications import Starlette

from monitoring.boards import dashboards
from monitoring.monitor.programs import Configuration, Programs, find_programs
from monitoring.monitor.server import server
from monitoring.monitor.targets import named_targets, running_service
from monitoring.thresholds import read_thresholds, seconds
from nuclei.console import messages, output, print_error
from nuclei.errors import MissingPrerequisite
from nuclei.process.ports import LOOPBACK, check_free

_WATCH_S = 1.0
_START_POLL_S = 0.05
_SHUTDOWN_S = 2


def run(port: int, state: Path, given: Sequence[str]) -> None:
    """Watch a service until Ctrl-C or SIGTERM; then everything that was started has ended.

    Args:
        port: of the page.
        state: folder of `nuclei serve`; what is kept is in its folder `monitor`.
        given: what `--target` names, instead of the service of that folder.

    Raises:
        MissingPrerequisite: a program is missing, the port is taken, no service runs, or the state
            folder cannot be written.
        InvalidOption: a target is none.
        InvalidData: a file of the configuration is wrong; names it, and the line.
        EngineFailed: a program does not start.
    """
    check_free(LOOPBACK, port, "the page", "--port")
    found = find_programs()
    configuration = Configuration()
    thresholds = read_thresholds()
    targets = named_targets(given, configuration.jobs) if given else running_service(state)
    home = (state / "monitor").resolve()
    programs = Programs(home, found, configuration, targets)
    app = server(
        programs.prometheus_url,
        programs.alertmanager_url,
        dashboards(thresholds),
        round(seconds(thresholds.scrape.interval)),
        lambda: [f"{name} has ended: {how}" for name, how in programs.ended().items()],
    )
    _stop_on_signals()
    try:
        messages().print("Starting Prometheus and Alertmanager")
        with programs:
            asyncio.run(_serve(app, port, programs))
    except KeyboardInterrupt:
        messages().print("Stopped")
    except OSError as error:
        raise MissingPrerequisite(
            f"{home} cannot be used ({error}): choose another folder with --state"
        ) from error


async def _serve(app: Starlette, port: int, programs: Programs) -> None:
    """Serve the page; say when it is ready, and which program has ended."""
    config = uvicorn.Config(
        app,
        host=LOOPBACK,
        port=port,
        log_config=None,
        access_log=False,
        limit_concurrency=64,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    listening = uvicorn.Server(config)
    watching = asyncio.create_task(_watch(programs, listening))
    try:
        await listening.serve()
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def _watch(programs: Programs, listening: uvicorn.Server) -> None:
    while not listening.started:
        await asyncio.sleep(_START_POLL_S)
    _print_ready(listening.config.port, programs)
    told: set[str] = set()
    while True:
        for name, how in programs.ended().items():
            if name not in told:
                told.add(name)
                print_error(f"{name} has ended: {how}. Start `nuclei monitor` again")
        programs.cap_logs()
        await asyncio.sleep(_WATCH_S)


def _stop_on_signals() -> None:
    """Let Ctrl-C and SIGTERM raise KeyboardInterrupt, once: stopping is not interrupted."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)


def _print_ready(port: int, programs: Programs) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("page", f"http://{LOOPBACK}:{port}/monitor")
    for job, addresses in programs.targets.addresses.items():
        table.add_row(job, ", ".join(addresses) or "none runs")
    table.add_row("kept in", str(programs.home))
    # A closed terminal does not keep the page from being served.
    with suppress(OSError):
        ready = Text.assemble(("Ready", "green"), " Ctrl-C stops it")
        output().print(Group(ready, table))
