"""The models of a repository that callers can ask for."""

from pathlib import Path

from serving.repository.listing import list_models


def test_a_model_is_listed_with_its_versions_and_contract(repository: Path) -> None:
    (entry,) = list_models(repository)
    assert (entry.name, entry.versions, entry.champion) == ("unet", (3,), 3)
    assert entry.contract.validation["dsb_score"] == 0.5


def test_nothing_is_listed_where_nothing_was_exported(tmp_path: Path) -> None:
    assert list_models(tmp_path / "none") == []
