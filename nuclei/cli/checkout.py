"""Files that a checkout of the project has and an installed package leaves out."""

from pathlib import Path

from nuclei.errors import MissingPrerequisite

ROOT = Path(__file__).parents[2]


def require_checkout(*paths: Path) -> None:
    """Check that the files are there, when the project is an installed package.

    In a checkout nothing is checked: what is missing there, `make` makes.

    Raises:
        MissingPrerequisite: one is missing.
    """
    if (ROOT / "pyproject.toml").is_file():
        return
    for path in paths:
        if not path.exists():
            raise MissingPrerequisite(
                f"this command needs {path.name} of a checkout of the project, which the "
                "installed package leaves out: unpack the project's sources on a Linux machine "
                "and run `make serve` there"
            )
