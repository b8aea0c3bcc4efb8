"""The commands of `nuclei`. Each is a module, which imports what it needs when it runs."""

from typing import Annotated

import typer

from nuclei.cli import (
    calibrate,
    compare,
    data,
    deploy,
    diff,
    evaluate,
    export,
    gate,
    models,
    monitor,
    probe,
    promote,
    replay,
    rollback,
    segment,
    serve,
    sync,
    train,
)
from nuclei.version import installed_version

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find the nuclei in microscope frames: segment, serve, train, evaluate.",
)
app.command(epilog=segment.EPILOG)(segment.segment)
app.command(epilog=serve.EPILOG)(serve.serve)
app.command(epilog=monitor.EPILOG)(monitor.monitor)
app.command(epilog=sync.EPILOG)(sync.sync)
app.command(epilog=probe.EPILOG)(probe.probe)
app.command(epilog=replay.EPILOG)(replay.replay)
app.command(epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command(epilog=compare.EPILOG)(compare.compare)
app.add_typer(train.app, name="train")
app.command(epilog=export.EPILOG)(export.export)
app.command(epilog=calibrate.EPILOG)(calibrate.calibrate)
app.command(epilog=gate.EPILOG)(gate.gate)
app.command(epilog=models.EPILOG)(models.models)
app.command(epilog=diff.EPILOG)(diff.diff)
app.command(epilog=promote.EPILOG)(promote.promote)
app.command(epilog=rollback.EPILOG)(rollback.rollback)
app.add_typer(deploy.app, name="deploy")
app.add_typer(data.app, name="data")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"nuclei-serving {installed_version()}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """What every command shares."""
