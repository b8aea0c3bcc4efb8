"""The entry point of the `nuclei` command."""

import sys

from nuclei.cli.extras import named_extras
from nuclei.errors import InvalidOption, MissingPrerequisite, NucleiError
from nuclei.process.first import end_by_sigterm


def main() -> None:
    """Run the command line; an error becomes one red sentence and its exit code."""
    end_by_sigterm()
    try:
        with named_extras():
            from nuclei.cli.app import app

            app()
    except NucleiError as error:
        _print(str(error))
        raise SystemExit(error.exit_code) from None
    except MemoryError:
        _print("this needs more memory than the machine gives; free some, or use smaller images")
        raise SystemExit(MissingPrerequisite.exit_code) from None
    except OSError as error:
        _print(f"{error.filename or 'a file'} cannot be used: {error.strerror or error}")
        raise SystemExit(InvalidOption.exit_code) from None


def _print(message: str) -> None:
    try:
        from nuclei.console import print_error
    except ModuleNotFoundError:  # rich is in an extra
        print(message, file=sys.stderr)
    else:
        print_error(message)
