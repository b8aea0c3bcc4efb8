"""`nuclei monitor`: Prometheus beside the running service, and a page of its dashboards."""

from pathlib import Path
from typing import Annotated

import typer

from nuclei.cli.checkout import ROOT, require_checkout

EPILOG = """
**Examples**

nuclei monitor                                 (the service of `nuclei serve` in this folder)

nuclei monitor --state /var/lib/nuclei         (of another folder)

nuclei monitor --target gateway=10.0.0.5:3000 --target triton=10.0.0.5:8002
"""


def monitor(
    port: Annotated[
        int, typer.Option(help="Port of the page, on loopback.", min=1, max=65535)
    ] = 3002,
    state: Annotated[
        Path,
        typer.Option(
            envvar="NUCLEI_STATE",
            show_envvar=False,
            help="State folder of `nuclei serve`, which says where the service listens; what is "
            "measured is kept in its folder `monitor`.",
        ),
    ] = Path(".state"),
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="JOB=HOST:PORT",
            help="What to scrape instead of the service of that folder; give it once for each "
            "address. Jobs: gateway, triton, sync, probe, mlflow, node.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Watch the running service: measurements, alerts and a page that shows both, until Ctrl-C.

    It starts Prometheus, Alertmanager and a probe on loopback, and serves /monitor there: the
    dashboards, drawn without Grafana. A service that asks for a token needs NUCLEI_TOKEN here too.
    """
    require_checkout(ROOT / "monitoring" / "prometheus")

    from monitoring.monitor.process import run

    run(port, state, target or [])
