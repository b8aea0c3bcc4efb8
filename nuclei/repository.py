"""Where the model repository is when nobody names one."""

from pathlib import Path

REPOSITORY = Path("model_repository")
PACKAGES = Path(__file__).parents[1]


def default_repository() -> Path:
    """`model_repository` in the current folder; where there is none, the one beside the package."""
    beside = PACKAGES / REPOSITORY
    return beside if beside.is_dir() and not REPOSITORY.is_dir() else REPOSITORY


def searched(repository: Path) -> str:
    """The places where a repository was looked for, for the error that says there is none."""
    places = [repository.absolute()]
    if repository == REPOSITORY:
        places.append(PACKAGES / REPOSITORY)
    return " nor ".join(map(str, places))
