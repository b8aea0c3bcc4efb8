"""Names and versions of models, and ids that callers give to requests and acquisitions.

They become folders, URLs, headers, lines of a log and labels of metrics. So there is one rule for
names and one for ids, checked wherever they enter: from a caller, a command, a setting, a file or a
registry.
"""

import re

from nuclei.errors import InvalidOption
from nuclei.quoting import quoted

# A model, its family or an alias; folders are called so.
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NO_NAMES = (".", "..")
# Triton's versions are of 64 bits.
MAX_VERSION = 2**63 - 1
# A request or an acquisition: what a header may hold, such as `urn:uuid:...` and `plate7/A01#3`.
_ID = re.compile(r"[!-~]{1,128}")


def is_name(text: object) -> bool:
    """Whether this may be the name of a model, a family or an alias."""
    if not isinstance(text, str) or text in _NO_NAMES:
        return False
    return _NAME.fullmatch(text) is not None


def check_name(text: object, what: str) -> None:
    """Check the name of a model, a family or an alias.

    Args:
        text: what was given.
        what: what it is to name, for the message: `model`.

    Raises:
        InvalidOption: it is no name.
    """
    if not is_name(text):
        raise InvalidOption(
            f"{what} is {quoted(text)}; expected a name: 1 to 64 of the characters A-Z a-z 0-9 "
            "_ . - and not . or .."
        )


def version_number(given: object) -> int:
    """The number of a model version: an integer, or its digits as a reply names it.

    Raises:
        InvalidOption: it is none.
    """
    number = given
    if isinstance(given, str) and given.isascii() and given.isdecimal() and len(given) < 20:
        number = int(given)
    if isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= MAX_VERSION:
        return number
    raise InvalidOption(
        f"version is {quoted(given)}; expected the number of a version, such as 4, or none for the "
        "version that is in use"
    )


def check_id(text: object, what: str) -> None:
    """Check the id of a request or an acquisition.

    Args:
        text: what was given.
        what: what it names, for the message: `request_id`.

    Raises:
        InvalidOption: it is no id.
    """
    if not isinstance(text, str) or not _ID.fullmatch(text):
        raise InvalidOption(
            f"{what} is {quoted(text)}; expected at most 128 printable ASCII characters without "
            "spaces: use a UUID"
        )
