import re
from pathlib import Path

import grpc
import pytest

from nuclei import errors
from nuclei.errors import NucleiError


def subclasses(cls: type[NucleiError]) -> list[type[NucleiError]]:
    """Those that callers can get: a private one is told apart, and caught, where it is raised."""
    public = (child for child in cls.__subclasses__() if not child.__name__.startswith("_"))
    return [found for child in public for found in (child, *subclasses(child))]


def drawn_parents() -> dict[str, str]:
    """Name of the parent of each class in the tree that the module's docstring draws."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"([│├└─ ]*)([A-Z]\w+)(?: {2,}|$)", line):
            depth = len(found[1]) // 4
            path[depth:] = [found[2]]
            if depth:
                parents[found[2]] = path[depth - 1]
    return parents


def test_the_drawn_tree_is_the_real_one() -> None:
    real = {error.__name__: error.__bases__[0].__name__ for error in subclasses(NucleiError)}
    assert drawn_parents() == real


@pytest.mark.parametrize("error", subclasses(NucleiError))
def test_every_error_maps_to_every_protocol(error: type[NucleiError]) -> None:
    assert error.grpc_status in grpc.StatusCode.__members__
    assert 400 <= error.http_status < 600
    assert error.exit_code > 0


def test_the_exit_code_names_the_branch() -> None:
    branches = NucleiError.__subclasses__()
    assert len({branch.exit_code for branch in branches}) == len(branches)
    for branch in branches:
        assert {error.exit_code for error in subclasses(branch)} <= {branch.exit_code}


def test_the_base_class_has_no_codes() -> None:
    assert not {"grpc_status", "http_status", "exit_code"} & set(vars(NucleiError))


def test_the_documented_table_is_the_real_one() -> None:
    row = re.compile(r"^\| `(\w+)` \| ([A-Z_]+) \| (\d+) \| (\d+) \|", re.MULTILINE)
    text = (Path(__file__).parents[2] / "docs" / "client.md").read_text()
    documented = {name: codes for name, *codes in row.findall(text)}
    leaves = [error for error in subclasses(NucleiError) if error is not errors.InvalidInput]
    assert documented == {
        error.__name__: [error.grpc_status, str(error.http_status), str(error.exit_code)]
        for error in leaves
    }
