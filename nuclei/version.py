"""The version of this software: that of the installed distribution."""

from importlib.metadata import version

DISTRIBUTION = "nuclei-serving"


def installed_version() -> str:
    """As pip has it, such as `0.2.0`."""
    return version(DISTRIBUTION)
