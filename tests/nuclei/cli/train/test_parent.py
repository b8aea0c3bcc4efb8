"""What `--from` names."""

from pathlib import Path

import pytest

from nuclei.cli.train.parent import find_parent
from nuclei.errors import InvalidData, ModelNotFound
from nuclei.inference.contract import Contract
from tests.serving.promotion.registries import MODEL, Filled


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_what_serves_is_registered_where_nothing_was_champion(
    filled: Filled, home: Path, shipped_artifacts: Path
) -> None:
    uri = filled.registry.tracking_uri
    found = find_parent("champion", uri)
    assert found.name == f"{MODEL}:5"
    assert filled.aliases() == {"champion": 5}
    assert found.licence == Contract.read(shipped_artifacts / "contract.json").licence != ""
    for name in ("contract.json", "network.onnx"):
        assert (found.files / name).read_bytes() == (shipped_artifacts / name).read_bytes()
    assert find_parent("champion", uri) == find_parent("unet", uri) == found
    assert len(filled.state().versions) == 5
    assert [path.name[:14] for path in (home / ".nuclei" / "downloads").iterdir()] == [
        f"{MODEL}-5-"[:14]
    ]


@pytest.mark.parametrize(
    ("text", "version"), [("unet:2", 2), ("nuclei-unet:3", 3), ("unet:best", 1), ("unet", 4)]
)
def test_versions_are_named_by_number_and_alias(text: str, version: int, filled: Filled) -> None:
    filled.registry.set_alias(MODEL, "best", 1)
    found = find_parent(text, filled.registry.tracking_uri)
    assert found.name == f"{MODEL}:{version}"
    assert (found.files / "contract.json").read_text() == f'{{"family": "{version}"}}'
    assert found.licence == "Apache-2.0"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("unet:9", "has no version 9"),
        ("unet:worst", "has no alias 'worst'"),
        ("mylab", "'nuclei-mylab' is not registered"),
    ],
)
def test_what_is_not_registered_is_named(text: str, reason: str, filled: Filled) -> None:
    with pytest.raises(ModelNotFound, match=reason):
        find_parent(text, filled.registry.tracking_uri)


def test_a_folder_has_a_contract(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="expected a folder with contract"):
        find_parent(f"{tmp_path}/", "unused")
    (tmp_path / "contract.json").write_text(Contract("unet").to_json())
    assert find_parent(f"{tmp_path}/", "unused").files == tmp_path
