"""Instances of one model that know of each other."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.triton.backend.others import Others

AT_WORK = """
import sys
from pathlib import Path
from serving.triton.backend.others import Others
with Others(Path(sys.argv[1])).told() as at_work:
    print(at_work, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.touch()
    return path


@contextmanager
def another(model: Path) -> Iterator["tuple[subprocess.Popen[str], str]"]:
    """An instance at work, and whether it was told of others."""
    with subprocess.Popen(
        [sys.executable, "-c", AT_WORK, model],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.communicate("done")


def test_an_instance_alone_is_told_so_again_and_again(model: Path) -> None:
    others = Others(model)
    for _ in range(3):
        with others.told() as at_work:
            assert not at_work


def test_each_is_told_of_the_other(model: Path) -> None:
    others = Others(model)
    with others.told(), another(model) as (_, theirs):
        assert theirs == "True"
        with others.told() as ours:
            assert ours
    with others.told() as ours:
        assert not ours


def test_another_model_is_nobody(model: Path, tmp_path: Path) -> None:
    different = tmp_path / "different.onnx"
    different.touch()
    with another(different), Others(model).told() as at_work:
        assert not at_work


def test_one_that_failed_is_no_longer_at_work(model: Path) -> None:
    others = Others(model)
    with another(model) as (process, _):
        process.kill()
        process.wait()
        with others.told() as at_work:
            assert not at_work
    with pytest.raises(ValueError, match="inside"), others.told():
        raise ValueError("inside")
    with another(model) as (_, theirs):
        assert theirs == "False"
