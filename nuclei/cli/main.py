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
        from nuclei.console import print_error
    except ModuleNotFoundError:  # rich is in an extra
        print(message, file=sys.stderr)
    else:
        print_error(message)
