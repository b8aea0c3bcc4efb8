"""Files that are made piece by piece: a large table is never in memory whole."""

from collections.abc import Callable, Iterable, Iterator

PIECE_BYTES = 2**18


class Pieces:
    """The bytes of a file, made each time they are gone through.

    A piece has `PIECE_BYTES`, and at most one part more: what is written of one nucleus.
    """

    def __init__(self, parts: Callable[[], Iterable[bytes]]) -> None:
        """Args: parts: makes the bytes of the file, in parts of any length."""
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        waiting: list[bytes] = []
        length = 0
        for part in self._parts():
            waiting.append(part)
            length += len(part)
            if length >= PIECE_BYTES:
                yield b"".join(waiting)
                waiting.clear()
                length = 0
        yield b"".join(waiting)


def separated(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The parts, with a comma before each but the first."""
    for number, part in enumerate(parts):
        yield b"," + part if number else part
