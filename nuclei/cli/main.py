"""The `nuclei` command. Each subcommand is a module, which imports what it needs when it runs."""

import typer
from rich.console import Console

from nuclei.cli import compare, data, evaluate, export, models, replay, segment, serve, train
from nuclei.errors import NucleiError

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
app.command(epilog=replay.EPILOG)(replay.replay)
app.command(epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command(epilog=compare.EPILOG)(compare.compare)
app.add_typer(train.app, name="train")
app.command(epilog=export.EPILOG)(export.export)
app.command(epilog=models.EPILOG)(models.models)
app.add_typer(data.app, name="data")


def main() -> None:
    """Run the command line; a NucleiError becomes one red sentence and its exit code."""
    try:
        app()
    except NucleiError as error:
        Console(stderr=True).print(str(error), style="red", markup=False, soft_wrap=True)
        raise SystemExit(error.exit_code) from None
