"""Which instances of a model are at work."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.triton.backend.activity import Activity

AT_WORK = """
import sys
from pathlib import Path
from serving.triton.backend.activity import Activity
with Activity(Path(sys.argv[1])).working() as at_work:
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
    """An instance at work, and whether it saw others at work (True, False)."""
    with subprocess.Popen(
        [sys.executable, "-c", AT_WORK, model],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.communicate("done")


def test_an_instance_alone_sees_no_other_again_and_again(model: Path) -> None:
    activity = Activity(model)
    for _ in range(3):
        with activity.working() as at_work:
            assert not at_work


def test_each_sees_the_other(model: Path) -> None:
    activity = Activity(model)
    with activity.working(), another(model) as (_, theirs):
        assert theirs == "True"
        with activity.working() as ours:
            assert ours
    with activity.working() as ours:
        assert not ours


def test_instances_of_another_model_do_not_count(model: Path, tmp_path: Path) -> None:
    different = tmp_path / "different.onnx"
    different.touch()
    with another(different), Activity(model).working() as at_work:
        assert not at_work


def test_one_that_failed_is_no_longer_at_work(model: Path) -> None:
    activity = Activity(model)
    with another(model) as (process, _):
        process.kill()
        process.wait()
        with activity.working() as at_work:
            assert not at_work
    with pytest.raises(ValueError, match="inside"), activity.working():
        raise ValueError("inside")
    with another(model) as (_, theirs):
        assert theirs == "False"
