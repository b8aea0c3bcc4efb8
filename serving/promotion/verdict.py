"""A gate of a model version: what was found, what is asked for, and whether that is reached."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Gate:
    """The verdict of one gate.

    Attributes:
        name: `parity`, `accuracy.histology`.
        figure: what was found; None when nothing could be.
        bound: what it has to be.
        passed: whether it is.
        sentence: what that means.
    """

    name: str
    figure: float | str | None
    bound: str
    passed: bool
    sentence: str

    @property
    def shown(self) -> str:
        """The figure, for a table."""
        if self.figure is None:
            return "\N{EN DASH}"
        return self.figure if isinstance(self.figure, str) else f"{self.figure:.4g}"


def reason(gates: Sequence[Gate]) -> str:
    """One sentence on all of them: why the version is refused, or that it is not."""
    failed = [gate for gate in gates if not gate.passed]
    if not failed:
        return f"all {len(gates)} gates passed"
    more = f" (and {len(failed) - 1} more: {', '.join(gate.name for gate in failed[1:])})"
    return f"{failed[0].name}: {failed[0].sentence}{more if failed[1:] else ''}"
