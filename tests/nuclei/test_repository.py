"""Where commands and the service look for models by default."""

from pathlib import Path

import pytest

from nuclei.errors import InvalidData
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.repository import PACKAGES, REPOSITORY, default_repository
from serving.settings import ServeSettings


def test_any_folder_finds_the_repository_beside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_repository() == ServeSettings().repository == PACKAGES / REPOSITORY
    assert LocalEngine(default_repository()).models() == ["unet"]
    (tmp_path / REPOSITORY).mkdir()
    assert default_repository() == ServeSettings().repository == REPOSITORY


def test_an_absent_repository_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidData) as raised:
        LocalEngine(REPOSITORY)
    assert f"{tmp_path / REPOSITORY} nor {PACKAGES / REPOSITORY}" in str(raised.value)
    with pytest.raises(InvalidData, match=f"no models in {tmp_path / 'own'}; expected"):
        LocalEngine(Path("own"))
