"""What our commands print: results to standard output; progress and errors to standard error."""

from rich.console import Console

# A file has no width, and 80 columns would cut the names and numbers of a table short.
FILE_WIDTH = 200


def output() -> Console:
    """The console for results; tables in a file are as wide as they need."""
    return _console(stderr=False)


def messages() -> Console:
    """The console for progress and messages."""
    return _console(stderr=True)


def print_error(error: object, console: Console | None = None) -> None:
    """Print what went wrong in red, as it is, on one line however long.

    Args:
        error: the error, or a sentence.
        console: the one that shows progress meanwhile; None is `messages()`.
    """
    console = console or messages()
    console.print(str(error), style="red", markup=False, soft_wrap=True)


def _console(stderr: bool) -> Console:
    console = Console(stderr=stderr)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    return console
