"""What others wrote (users, files, registries), made fit to be shown: printable and short."""

QUOTED_CHARACTERS = 80


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
    """A value that was given, in quotes, for an error message: bounded and printable."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) <= QUOTED_CHARACTERS:
        return f"'{printable(text)}'"
    return f"'{printable(text[:QUOTED_CHARACTERS])}...' ({len(text)} characters)"
