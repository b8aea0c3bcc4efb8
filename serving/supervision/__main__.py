"""The supervisor's process: starts the service, then watches it until it is stopped."""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nuclei.console import messages, output, print_error
from nuclei.errors import MissingPrerequisite, NucleiError
from nuclei.process.background import in_background
from nuclei.process.heartbeat import beat
from nuclei.quoting import without_password
from serving.gateway.exposure import check_exposure
from serving.gateway.settings import GatewaySettings
from serving.logs import write_logs
from serving.settings import ServeSettings, read_settings
from serving.supervision.launcher import Service
from serving.supervision.self_check import SelfCheck
from serving.supervision.supervisor import Supervisor
from serving.supervision.sync_process import prepare

_POLL_S = 0.1


def main() -> None:
    """Serve until stopped; an error of ours becomes one red sentence and its exit code."""
    try:
        _supervise(partial(beat, int(sys.argv[1])))
    except NucleiError as error:
        print_error(error)
        sys.exit(error.exit_code)


def _supervise(give_sign: Callable[[], None]) -> None:
    settings, gateway = read_settings(ServeSettings), read_settings(GatewaySettings)
    write_logs(settings)
    check_exposure(gateway, {gateway.host})
    if settings.sync:
        _say(f"Fetching the champions of {without_password(settings.sync)}")
        prepare(settings, give_sign)
    service = Service(settings, gateway)
    service.check()
    supervisor = Supervisor(service.parts(), give_sign)
    started = time.monotonic()
    _stop_on_signals()
    try:
        _say("Starting Triton and the gateway")
        service.note_addresses()
        supervisor.start(lambda name, seconds: _say(f"{name} works after {seconds:.1f} s"))
        _say(f"Checking every model with {settings.check_frame.name}")
        # Stopping does not wait for it.
        checking = in_background(service.self_check, "self-check")
        supervisor.run(until=checking.done)
        checks = checking.result()
        # A closed terminal or a full disk does not keep the service from running.
        with contextlib.suppress(OSError):
            _print_ready(output(), service, checks, time.monotonic() - started)
        supervisor.run_for_ever()
    except KeyboardInterrupt:
        _say("Stopping")
    except OSError as error:
        raise MissingPrerequisite(
            f"the state folder {settings.state} cannot be used ({error}): choose one that can be "
            "written with --state"
        ) from error
    finally:
        # The guard is to wait as long as it takes.
        stopping = in_background(service.stop, "stop")
        while not stopping.done():
            give_sign()
            time.sleep(_POLL_S)
        stopping.result()


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):
        messages().print(sentence)


def _stop_on_signals() -> None:
    """Let Ctrl-C and SIGTERM raise KeyboardInterrupt, once: stopping is not interrupted."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)


def _print_ready(
    console: Console, service: Service, checks: Sequence[SelfCheck], seconds: float
) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for check in checks:
        found = check.segmentation
        result = f"{len(found.nuclei)} nuclei in {check.frame.name}, {check.latency_ms:.0f} ms"
        table.add_row(f"{found.model} version {found.version}", result)
    table.add_row("HTTP", service.loopback.http_url)
    table.add_row("gRPC", service.loopback.grpc_address)
    table.add_row("logs", str(service.settings.state))
    console.print(Text("Ready", "green"), f"in {seconds:.1f} s; Ctrl-C stops it")
    console.print(table)


if __name__ == "__main__":
    main()
