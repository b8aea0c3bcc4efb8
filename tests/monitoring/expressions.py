"""Which metrics an expression of PromQL asks for."""

import re

_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')
_LABELS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_IN_BRACKETS = re.compile(r"\{[^}]*\}|\[[^\]]*\]")
_NAME = re.compile(r"[a-zA-Z_:][\w:]*")
_WORDS = {"and", "bool", "by", "offset", "or", "unless", "without"}
# A histogram's and a counter's samples have more to their names than what is declared.
_PARTS = re.compile(r"_(bucket|count|info|sum|total)$")


def metrics(expression: str) -> set[str]:
    """Names of the series in an expression."""
    bare = expression
    for nothing in (_STRINGS, _LABELS, _IN_BRACKETS):
        bare = nothing.sub(" ", bare)
    # Durations and numbers begin with a digit.
    bare = re.sub(r"\b\d[\w.]*", " ", bare)
    found = {match for match in _NAME.finditer(bare) if match.group() not in _WORDS}
    return {match.group() for match in found if not bare[match.end() :].lstrip().startswith("(")}


def declared(series: str) -> str:
    """The name under which a series is declared."""
    return _PARTS.sub("", series)


def selectors(expression: str) -> set[str]:
    """The series that an expression selects: each name with its labels in braces, if it has any."""
    names = "|".join(sorted(map(re.escape, metrics(expression)), key=len, reverse=True))
    found = re.finditer(rf'\b({names})\b(\{{(?:[^}}"]|"(?:[^"\\]|\\.)*")*\}})?', expression)
    return {match.group() for match in found} if names else set()
