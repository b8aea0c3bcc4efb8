"""`nuclei probe`: is a running service up, and right?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nuclei.cli.gateway import (
    DEFAULT_ADDRESS,
    AddressOption,
    Gateway,
    TlsCaOption,
    TlsCertificateOption,
    TlsKeyOption,
    TokenOption,
)
from nuclei.console import output
from nuclei.errors import EngineFailed, InvalidOption
from nuclei.quoting import quoted

if TYPE_CHECKING:
    from nuclei.probe import ProbeFrame

EPILOG = """
**Examples**

nuclei probe                       (a frame a minute; metrics on http://127.0.0.1:8004/metrics)

nuclei probe --once                (exit code 0 when it is answered rightly)

nuclei probe --frame tissue.png --nuclei 80-120 --model unet_tissue
"""


def probe(
    address: AddressOption = DEFAULT_ADDRESS,
    token: TokenOption = "",
    tls_ca: TlsCaOption = None,
    tls_certificate: TlsCertificateOption = None,
    tls_key: TlsKeyOption = None,
    model: Annotated[
        str, typer.Option(help="Model [the server's default one].", show_default=False)
    ] = "",
    frame: Annotated[
        Path | None,
        typer.Option(
            help="Image to send, with --nuclei, where the model is for other images than the "
            "built-in one of 12 bright nuclei.",
            show_default=False,
        ),
    ] = None,
    nuclei: Annotated[
        str | None,
        typer.Option(help="How many nuclei the image has, such as 80-120.", show_default=False),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Send one frame and end.")] = False,
    every: Annotated[
        float | None,
        typer.Option(help="Seconds from one frame to the next [60].", min=1, show_default=False),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port of /metrics [8004].", min=1, max=65535, show_default=False),
    ] = None,
) -> None:
    """Send a small frame to a gateway at intervals, and show whether it is answered rightly.

    The gateway counts it apart from the frames of callers. Without --once it runs until it is
    stopped, and Prometheus reads its metrics.
    """
    from serving.logs import write_logs
    from serving.settings import ProbeSettings, read_settings

    settings = read_settings(ProbeSettings)

    from nuclei.probe import Probe, keep_probing, synthetic_frame
    from nuclei.process.ports import check_free

    gateway = Gateway(address, token, tls_ca, tls_certificate, tls_key)
    gateway.channel().close()  # what cannot be used is said at once
    sent = synthetic_frame() if frame is None and nuclei is None else _frame(frame, nuclei)
    prober = Probe(gateway.channel, token, sent, model)
    if once:
        answer = prober.send()
        if answer.fault:
            raise EngineFailed(answer.fault)
        output().print(
            f"{answer.nuclei} nuclei by {answer.model} in {answer.seconds:.3f} s, as expected"
        )
        return
    port = port or settings.probe_port
    check_free(settings.probe_host, port, "the probe", "--port or NUCLEI_PROBE_PORT")
    write_logs(settings)
    keep_probing(prober, every or settings.probe_every_s, settings.probe_host, port)


def _frame(path: Path | None, nuclei: str | None) -> "ProbeFrame":
    from nuclei.probe import ProbeFrame

    if path is None or nuclei is None:
        raise InvalidOption("--frame and --nuclei go together: give both, or none of them")
    least, _, most = nuclei.partition("-")
    if not least.isdecimal() or not (most or least).isdecimal():
        raise InvalidOption(f"--nuclei is {quoted(nuclei)}; expected a number, or two as 80-120")
    if int(most or least) < int(least):
        raise InvalidOption(f"--nuclei is {quoted(nuclei)}; expected the smaller number first")
    return ProbeFrame(path, int(least), int(most or least))
