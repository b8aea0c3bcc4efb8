"""The process that `nuclei serve` guards: starts the service, then watches it."""

import contextlib
import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from nuclei.errors import NucleiError
from serving.gateway import security
from serving.gateway.settings import GatewaySettings
from serving.settings import ServeSettings, read_settings
from serving.supervision.events import show_events
from serving.supervision.launcher import SelfCheck, Service, stop_on_signals
from serving.supervision.supervisor import Supervisor


def main() -> None:
    """Serve until told to stop; an error of ours becomes one red sentence and its exit code."""
    show_events()
    try:
        _supervise(Console())
    except NucleiError as error:
        Console(stderr=True).print(str(error), style="red", markup=False, soft_wrap=True)
        sys.exit(error.exit_code)


def _supervise(console: Console) -> None:
    gateway = read_settings(GatewaySettings)
    security.check(gateway, {gateway.host})
    service = Service(read_settings(ServeSettings), gateway)
    started = time.monotonic()
    stop_on_signals()
    try:
        with console.status("Starting Triton and the gateway"):
            service.start()
            checks = service.self_check()
        # Where nobody can read it, or a full disk cannot hold it, the service runs all the same.
        with contextlib.suppress(OSError):
            _report(console, service, checks, time.monotonic() - started)
        Supervisor(service.parts()).run()
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            console.print("Stopping")
    finally:
        service.stop()


def _report(
    console: Console, service: Service, checks: Sequence[SelfCheck], seconds: float
) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for check in checks:
        found = check.segmentation
        told = f"{len(found.nuclei)} nuclei in {check.frame.name}, {check.latency_ms:.0f} ms"
        table.add_row(f"{found.model} version {found.version}", told)
    table.add_row("HTTP", service.loopback.http_url)
    table.add_row("gRPC", service.loopback.grpc_address)
    table.add_row("logs", str(service.settings.state))
    console.print(f"[green]Ready[/green] in {seconds:.1f} s; Ctrl-C stops it")
    console.print(table)


if __name__ == "__main__":
    main()
