"""The supervisor's process: starts the service, then watches it until it is stopped."""

import contextlib
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nuclei.console import output, print_error
from nuclei.errors import NucleiError
from serving.gateway import security
from serving.gateway.settings import GatewaySettings
from serving.logs import write_logs
from serving.settings import ServeSettings, read_settings
from serving.supervision.launcher import Service
from serving.supervision.self_check import SelfCheck
from serving.supervision.supervisor import Supervisor


def main() -> None:
    """Serve until stopped; an error of ours becomes one red sentence and its exit code."""
    try:
        _supervise(output())
    except NucleiError as error:
        print_error(error)
        sys.exit(error.exit_code)


def _supervise(console: Console) -> None:
    settings, gateway = read_settings(ServeSettings), read_settings(GatewaySettings)
    write_logs(settings)
    security.check(gateway, {gateway.host})
    service = Service(settings, gateway)
    started = time.monotonic()
    _stop_on_signals()
    try:
        with console.status("Starting Triton and the gateway"):
            service.start()
            checks = service.self_check()
        # A closed terminal or a full disk does not keep the service from running.
        with contextlib.suppress(OSError):
            _print_ready(console, service, checks, time.monotonic() - started)
        Supervisor(service.parts()).run()
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            console.print("Stopping")
    finally:
        service.stop()


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
