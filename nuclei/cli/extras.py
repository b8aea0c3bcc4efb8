"""The optional parts of the project: what a command needs that is not installed."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from nuclei.errors import MissingPrerequisite

# The extra of pyproject.toml that brings what the modules of a package import.
LOCAL = "local"
EXTRAS = {
    "nuclei": LOCAL,
    "serving": "serve",
    "serving.cluster": "cluster",
    "monitoring": "serve",
    "training": "train",
}


@contextmanager
def named_extras() -> Iterator[None]:
    """Name the extra that brings a package which could not be imported inside.

    Raises:
        MissingPrerequisite: a module of ours imported a package that is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        extra = _extra(error.__traceback__)
        if extra is None or error.name is None or _root(error.name) in EXTRAS:
            raise
        raise missing(error.name, extra) from error


def missing(package: str, extra: str) -> MissingPrerequisite:
    """The error that says which extra brings a package."""
    return MissingPrerequisite(
        f"this command needs {package}, which is not installed: "
        f"run `pip install 'nuclei-serving[{extra}]'`, or use an environment of a checkout: "
        "`make env` makes one that serves, `make train-env` one with everything"
    )


def _extra(traceback: TracebackType | None) -> str | None:
    """The extra of the module of ours that was imported in vain.

    The others contain `local`, so where a module of theirs imported one of `nuclei`, theirs.
    """
    found = None
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__", "")
        extra = EXTRAS.get(_package(module)) or EXTRAS.get(_root(module))
        if module != __name__ and extra is not None and found in (None, LOCAL):
            found = extra
        traceback = traceback.tb_next
    return found


def _package(module: str) -> str:
    return ".".join(module.split(".")[:2])


def _root(module: str) -> str:
    return module.partition(".")[0]
