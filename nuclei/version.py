"""The version of this software: that of the installed distribution."""

from functools import cache
from importlib.metadata import version

DISTRIBUTION = "nuclei-serving"


@cache
def installed_version() -> str:
    """As pip has it, such as `0.2.0`."""
    return version(DISTRIBUTION)
