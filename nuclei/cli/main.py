"""The entry point of the `nuclei` command."""

import sys

from nuclei.cli.extras import named_extras
from nuclei.errors import NucleiError


def main() -> None:
    """Run the command line; a NucleiError becomes one red sentence and its exit code."""
    try:
        with named_extras():
            from nuclei.cli.app import app

            app()
    except NucleiError as error:
        _print(str(error))
        raise SystemExit(error.exit_code) from None


def _print(message: str) -> None:
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        print(message, file=sys.stderr)
    else:
        Console(stderr=True).print(message, style="red", markup=False, soft_wrap=True)
