"""What others wrote (users, files, registries), made fit to be shown: printable and short."""

import re
import reprlib
from collections.abc import Sequence

QUOTED_CHARACTERS = 80
LISTED = 10
# gRPC encodes a status in its trailers, of which 8 kB arrive for sure.
SENTENCE_CHARACTERS = 800

_USER = re.compile(r"://[^/\s]*@")
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = QUOTED_CHARACTERS


def printable(text: str, keep: str = "") -> str:
    r"""The text with its characters that cannot be seen as escapes: `\n`, `\x1b`, `\u202e`.

    A terminal obeys control characters, and a line break makes two lines of a log of one.

    Args:
        text: any.
        keep: characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in keep
        else character.encode("unicode_escape").decode()
        for character in text
    )


def shortened(text: str, longest: int) -> str:
    """The text, or its beginning and its end and how long it is, in about `longest` characters."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} ... {text[-half:]} ({len(text)} characters)"


def quoted(value: object) -> str:
    """A value that was given, for an error message: printable and short; text is in quotes."""
    if not isinstance(value, str):
        return printable(" ".join(_REPR.repr(value).split()))
    if len(value) <= QUOTED_CHARACTERS:
        return f"'{printable(value)}'"
    return f"'{printable(value[:QUOTED_CHARACTERS])}...' ({len(value)} characters)"


def without_password(text: str) -> str:
    """The text with the user and password of its addresses left out: `http://***@host`."""
    return _USER.sub("://***@", text)


def sentence(error: object) -> str:
    """What an error says, fit for a status, a reply and a line of a log."""
    # Shortened twice: escapes are longer than what they stand for.
    text = printable(shortened(str(error), SENTENCE_CHARACTERS))
    return shortened(text, SENTENCE_CHARACTERS)


def listed(problems: Sequence[str]) -> str:
    """Problems one below the other, the first `LISTED` of them and how many more there are."""
    shown = problems[:LISTED]
    more = len(problems) - len(shown)
    return "".join(f"\n  {line}" for line in [*shown, *([f"and {more} more"] if more else [])])
