"""What our commands print: results to standard output; progress and errors to standard error.

Whatever is printed is text, never markup: `[/x]` and `:smile:` in the name of a file are shown as
they are, and control characters as escapes. Colour is a `style`, or a rich `Text` of our own words.
"""

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeVar

from rich.console import Console
from rich.text import Text

from nuclei.quoting import LISTED, printable

T = TypeVar("T")
# A file has no width: its lines and tables are as long as they need.
FILE_WIDTH = 10_000
# Between two lines about a long run, seconds; and before the first, so that short runs have none.
LINE_S = 60.0


def output() -> Console:
    """The console for results; tables in a file are as wide as they need."""
    return _console(stderr=False)


def messages() -> Console:
    """The console for progress and messages."""
    return _console(stderr=True)


def print_error(error: object, console: Console | None = None) -> None:
    """Print what went wrong in red, on one line however long.

    Args:
        error: the error, or a sentence.
        console: the one that shows progress meanwhile; None is `messages()`.
    """
    console = console or messages()
    console.print(str(error), style="red", soft_wrap=True)


def print_warning(warning: str, console: Console | None = None) -> None:
    """Print what is doubtful in yellow; arguments as `print_error`."""
    console = console or messages()
    console.print(warning, style="yellow", soft_wrap=True)


def print_warnings(times: Counter[str], console: Console | None = None) -> None:
    """Print each of the most common warnings of several frames, and how many frames have it."""
    for warning, n_frames in times.most_common(LISTED):
        print_warning(f"{n_frames} x {warning}", console)
    if len(times) > LISTED:
        print_warning(f"and {len(times) - LISTED} other warnings", console)


def tracked(items: Iterable[T], task: str, total: int | None = None) -> Iterable[T]:
    """The items, with a progress bar while they are taken; a file gets no bar.

    Args:
        items: to be taken one by one.
        task: what is done with them.
        total: how many they are; None where they have a length.
    """
    from rich.markup import escape
    from rich.progress import track

    console = messages()
    shown = console.is_terminal
    return track(items, escape(task), total, console=console, transient=True, disable=not shown)


class Lines:
    """When a long run says in a file how far it is, where a terminal has a bar."""

    def __init__(self, console: Console) -> None:
        self._in_file = not console.is_terminal
        self._said = time.monotonic()

    def due(self) -> bool:
        """Whether a line is due now; if so, the next one is in LINE_S."""
        now = time.monotonic()
        due = self._in_file and now - self._said >= LINE_S
        if due:
            self._said = now
        return due


class _PlainConsole(Console):
    """Takes every string as it is: in sentences, titles and cells; in a file, on one line."""

    def render_str(self, text: str, **options: Any) -> Text:
        rendered = super().render_str(printable(text, keep="\n\t"), **options)
        if not self.is_terminal:  # the title of a narrow table would be folded
            rendered.no_wrap, rendered.overflow = True, "ignore"
        return rendered


def _console(stderr: bool) -> Console:
    console = _PlainConsole(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    return console
