from pathlib import Path

import pytest

from nuclei.errors import InvalidData
from nuclei.inference.contract import Contract
from nuclei.postprocessing.watershed import WatershedParameters

CONTRACT = Contract(
    "unet", postprocessing=WatershedParameters(min_area_px=7), validation={"dsb_score": 0.5}
)


def test_a_contract_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "contract.json"
    path.write_text(CONTRACT.to_json())
    assert Contract.read(path) == CONTRACT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"family": "unet"}',
        CONTRACT.to_json().replace('"tile_size"', '"tile_side"'),
        CONTRACT.to_json().replace('"tile_size": 512', '"tile_size": 500'),
        CONTRACT.to_json().replace('"tile_size": 512', '"tile_size": 128'),
        CONTRACT.to_json().replace('"min_area_px"', '"smallest"'),
    ],
)
def test_a_broken_contract_is_named(text: str) -> None:
    with pytest.raises(InvalidData, match=r"contract\.json"):
        Contract.from_json(text)


def test_a_missing_contract_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="cannot be read"):
        Contract.read(tmp_path / "contract.json")
