"""What Triton would refuse to load."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nuclei.errors import InvalidData
from serving.repository.checks import check_repository
from serving.repository.listing import list_models
from tests.shipped import SHIPPED

# Of the fixture `repository`.
VERSION, GRAPH, NETWORK = 3, "unet.3", "unet_network.3"
CHAMPION = rf"\"champion\":{VERSION}"


def replace_in_config(model: str, old: str, new: str) -> Callable[[Path], None]:
    def change(repository: Path) -> None:
        path = repository / model / "config.pbtxt"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


BROKEN_REPOSITORIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "python": (
        lambda folder: (folder / GRAPH / str(VERSION) / "model.py").touch(),
        "holds no Python",
    ),
    "config": (replace_in_config("tta", "name:", "nom:"), "not a Triton model configuration"),
    "name": (replace_in_config("tta", 'name: "tta"', 'name: "other"'), "names it 'other'"),
    "dims": (replace_in_config("tta", "dims: 1", "dims: 4"), r"'INPUT' has dims \[4, -1, -1, -1\]"),
    "output": (replace_in_config("merge", 'name: "MAPS"', 'name: "M"'), "'M' is not in the ONNX"),
    "type": (replace_in_config(NETWORK, "TYPE_FP32", "TYPE_FP16"), "is TYPE_FP16"),
    "step": (lambda folder: shutil.rmtree(folder / "merge"), "'merge' is not in the repository"),
    "version": (lambda folder: shutil.rmtree(folder / GRAPH / str(VERSION)), "no version folder"),
    "graph": (lambda folder: (folder / "tta/1/model.onnx").unlink(), "model.onnx is missing"),
    "wiring": (
        replace_in_config(GRAPH, 'value: "INPUT"', 'value: "nothing"'),
        "'nothing', which no step|no step before it makes",
    ),
    "unread": (
        replace_in_config(f"{GRAPH}_tta", 'output {\n  name: "DIS', 'input {\n  name: "ELSE'),
        "makes 'DISAGREEMENT', which nothing reads",
    ),
    "contract": (
        replace_in_config(GRAPH, "tile_size", "tile_sighs"),
        rf"{re.escape(GRAPH)}: contract\.json",
    ),
    "routing": (
        replace_in_config("unet", CHAMPION, CHAMPION.replace(str(VERSION), "0")),
        "routing of a model cannot be used",
    ),
    "a champion that is not there": (
        replace_in_config("unet", CHAMPION, CHAMPION.replace(str(VERSION), str(VERSION + 1))),
        rf"its champion 'unet\.{VERSION + 1}' is not in the repository",
    ),
    "a step's version": (
        replace_in_config(GRAPH, "model_version: 1", "model_version: 2"),
        "step 'preprocess' has no version 2",
    ),
    "a path for a step": (
        replace_in_config(GRAPH, 'model_name: "preprocess"', 'model_name: "../preprocess"'),
        "'../preprocess' is no name",
    ),
    "a path for a file": (
        replace_in_config("tta", '"model.onnx"', '"../../model.onnx"'),
        "is no name of a file",
    ),
    "threads": (replace_in_config("tta", 'string_value: "1"', 'string_value: "many"'), "many"),
    "bytes": (lambda folder: (folder / "tta/config.pbtxt").write_bytes(b"\xff\0"), "'tta'"),
    "nothing": (shutil.rmtree, "holds no model"),
}


@pytest.mark.parametrize("case", BROKEN_REPOSITORIES)
def test_a_broken_repository_is_reported(repository: Path, case: str) -> None:
    break_it, expected = BROKEN_REPOSITORIES[case]
    break_it(repository)
    with pytest.raises(InvalidData, match=expected):
        check_repository(repository)


def test_the_shipped_repository_is_one_that_triton_loads() -> None:
    check_repository(SHIPPED)
    assert [entry.name for entry in list_models(SHIPPED)] == ["unet"]
