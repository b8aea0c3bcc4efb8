import contextlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclei.errors import InvalidData
from nuclei.inference.contract import Contract
from nuclei.inference.method import MASKS, WATERSHED, Method
from nuclei.inference.provenance import DataSet
from nuclei.postprocessing.watershed import WatershedParameters

CONTRACT = Contract(
    "unet",
    postprocessing=WatershedParameters(min_area_px=7),
    colour_postprocessing=WatershedParameters(h=0.3),
    validation={"dsb_score": 0.5},
    licence="Apache-2.0 AND CC0-1.0",
    data=(DataSet("lab", "CC0-1.0", "A. Person, 2020", {"histology": 2}, {"histology": 31}),),
)


def test_a_contract_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "contract.json"
    path.write_text(CONTRACT.to_json())
    assert Contract.read(path) == CONTRACT


def changed(**fields: Any) -> str:
    return json.dumps({**json.loads(CONTRACT.to_json()), **fields})


IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "a huge tile": {"tile_size": int(32e9)},
    "a tile of a fraction": {"tile_size": 512.5},
    "text for a number": {"tile_size": "512"},
    "true for a number": {"tile_size": True},
    "a negative halo": {"halo": -1},
    "no stride": {"stride": 0},
    "a path": {"family": "../../x"},
    "an absolute path": {"family": "/somewhere/x"},
    "a line break": {"family": "unet\n"},
    "an escape": {"family": "\x1b[2J"},
    "the name of a graph": {"family": "unet_tta"},
    "not a number": {"validation": {"dsb_score": float("nan")}},
    "infinity": {"pixel_size_um": float("inf")},
    "pixels of metres": {"pixel_size_um": 1e6},
    "an unknown method": {"method": "x" * 10**6},
    "a probability above 1": {"postprocessing": {"h": 2.0}},
    "no parameters": {"postprocessing": 3},
    "no parameters of colour": {"colour_postprocessing": 3},
    "a probability above 1 in colour": {"colour_postprocessing": {"h": 2.0}},
    "a data set of -1 images": {"data": [{"name": "a", "images": {"histology": -1}}]},
    "data sets that are names": {"data": ["lab"]},
    "text for maps": {"maps": "foreground"},
    "too many scores": {"validation": {str(n): 1.0 for n in range(2000)}},
    "a field that is not known": {"\x1b" * 10**5: 1},
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_an_impossible_contract_is_refused_in_a_short_sentence(case: str) -> None:
    with pytest.raises(InvalidData, match=r"contract\.json") as raised:
        Contract.from_json(changed(**IMPOSSIBLE[case]))
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1500


@pytest.mark.parametrize("text", ["[" * 200_000, '{"family":' * 200_000, b"\xff", b" " * 2**27])
def test_what_is_nested_endlessly_or_huge_is_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidData, match=r"contract\.json"):
        Contract.from_json(text)


def test_what_cannot_be_read_is_not_written() -> None:
    with pytest.raises(InvalidData, match="validation"):
        Contract("unet", validation={"dsb_score": float("nan")}).to_json()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.sampled_from([field.name for field in fields(Contract)]),
)
def test_any_value_of_a_field_is_read_or_refused(value: Any, name: str) -> None:
    text = changed(**{name: value})
    with contextlib.suppress(InvalidData):
        contract = Contract.from_json(text)
        assert Contract.from_json(contract.to_json()) == contract


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"family": "unet"}',
        CONTRACT.to_json().replace('"halo": 64, ', ""),
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


@pytest.mark.parametrize(
    ("method", "tta", "square"),
    [(WATERSHED, False, False), (WATERSHED, True, True), (MASKS, False, True)],
)
def test_tiles_are_square_where_the_graph_needs_it(method: Method, tta: bool, square: bool) -> None:
    contract = Contract("some", method, tile_size=768, halo=32)
    height, width = contract.plan(520, 696, tta=tta).shape
    assert (height == width) == square
