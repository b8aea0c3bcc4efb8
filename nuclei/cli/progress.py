"""How far a long run is, and when it will end: a bar on a terminal, else a line now and then."""

import time
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from rich import progress
from rich.console import Console

from nuclei.console import Lines


class Progress:
    """Shows how many of the units of a run are done."""

    def __init__(self, total: int, console: Console) -> None:
        self._total = total
        self._console = console
        self._started = time.monotonic()
        self._lines = Lines(console)
        self._done = 0
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[end]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("Segmenting", total=total, end="")

    def advance(self, failed: int = 0) -> None:
        """One more is done; so many have failed."""
        self._done += 1
        end = f"ends {self.end()}" if self._done < self._total else ""
        self._bar.update(self._task, advance=1, end=f"{end}, {failed} failed" if failed else end)
        if self._lines.due():
            rate = self._done / (time.monotonic() - self._started)
            self._console.print(
                f"{self._done} of {self._total} done, {failed} failed, {rate:.2g} per second, {end}"
            )

    def end(self) -> str:
        """When the last will be done, at the pace so far: the time, with the day if not today."""
        elapsed = time.monotonic() - self._started
        left = elapsed / max(1, self._done) * (self._total - self._done)
        now = datetime.now()
        at = now + timedelta(seconds=left)
        return f"{at:%H:%M}" if at.date() == now.date() else f"{at:%a %d %b %H:%M}"

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()
