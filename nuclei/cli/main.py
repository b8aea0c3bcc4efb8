"""The `nuclei` command. Each command lives in a module of its own and imports what it needs."""

import typer
from rich.console import Console

from nuclei.cli.evaluate import evaluate
from nuclei.cli.segment import segment
from nuclei.errors import NucleiError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find the nuclei in microscope frames: segment, serve, train, evaluate.",
)
app.command()(segment)
app.command()(evaluate)


def main() -> None:
    """Run the command line; errors of ours become one red sentence and their exit code."""
    try:
        app()
    except NucleiError as error:
        Console(stderr=True).print(str(error), style="red", markup=False, soft_wrap=True)
        raise SystemExit(error.exit_code) from None
