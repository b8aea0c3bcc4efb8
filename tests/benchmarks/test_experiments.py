from pathlib import Path

import numpy as np
import pytest
import tifffile

from nuclei.errors import InvalidOption
from nuclei.inference.model_config import CONFIG_FILE, contract_of, read_model_config
from tests.shipped import GRAPH, SHIPPED
from training.schedule import Schedule


def _write(folder: Path, names: tuple[str, ...]) -> Path:
    folder.mkdir()
    for number, name in enumerate(names):
        labels = np.zeros((64, 64), np.uint16)
        labels[5 : 20 + number, 5:20] = 1
        tifffile.imwrite(folder / f"{name}.tif", labels * 200)
        tifffile.imwrite(folder / f"{name}_labels.tif", labels)
    return folder


def test_the_shipped_network_is_not_scored_on_what_it_learned(tmp_path: Path) -> None:
    from experiments import Bench

    held_out = contract_of(read_model_config(SHIPPED / GRAPH / CONFIG_FILE)).held_out
    known = _write(tmp_path / "known", (held_out[0], "learned"))
    others = _write(tmp_path / "others", ("a", "b"))
    data, schedule = [known, others], Schedule(steps=1)

    def files(leave: str) -> Path:
        folder = tmp_path / leave
        folder.mkdir(exist_ok=True)
        return Bench(data, folder, schedule, frozenset({leave}), SHIPPED, None).shipped_files

    said = r"has learned from known.*--leave others.*--only.*--repository"
    with pytest.raises(InvalidOption, match=said):
        files("known")
    assert (files("others") / "network.onnx").is_file()


def test_results_of_two_shipped_versions_are_not_mixed(tmp_path: Path) -> None:
    from experiments import claim

    schedule = Schedule(steps=1)
    claim(tmp_path, schedule, frozenset(), version=3)
    claim(tmp_path, schedule, frozenset(), version=3)
    with pytest.raises(InvalidOption, match="another budget"):
        claim(tmp_path, schedule, frozenset(), version=4)
