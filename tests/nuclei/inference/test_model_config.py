"""Configurations from anywhere: read or refused, never anything else."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclei.errors import InvalidData
from nuclei.inference.model_config import parse_model_config, read_model_config, versions_of
from tests.shipped import SHIPPED

TTA = (SHIPPED / "tta" / "config.pbtxt").read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        "name: ",
        b"\xff\xfe\x00",
        'name: "a"\nname: "b"',
        'name: "../x"',
        'name: "a\\n"',
        'name: "a" parameters { key: "intra_op_thread_count" value { string_value: "-1" } }',
        'name: "a" parameters { key: "intra_op_thread_count" value { string_value: "x" } }',
        'name: "a" max_batch_size: 99999999999999',
        'name: "a" ' + "ensemble_scheduling { " * 100_000,
        "#" * 10 + "\n" + "x" * 10**6,
    ],
)
def test_what_is_no_configuration_is_refused_in_a_short_sentence(text: str | bytes) -> None:
    with pytest.raises(InvalidData, match=r"^config.pbtxt of model 'tta' is not") as raised:
        parse_model_config(text, "tta")
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1500


@given(st.binary(max_size=64), st.integers(0, len(TTA)), st.integers(0, 64))
def test_damaged_configurations_are_read_or_refused(damage: bytes, start: int, n_lost: int) -> None:
    with contextlib.suppress(InvalidData):
        parse_model_config(TTA[:start] + damage + TTA[start + n_lost :], "tta")


def test_a_folder_that_is_no_name_holds_no_model(tmp_path: Path) -> None:
    folder = tmp_path / "un et"
    folder.mkdir()
    (folder / "config.pbtxt").write_bytes(TTA)
    with pytest.raises(InvalidData, match="'un et' is no name"):
        read_model_config(folder / "config.pbtxt")


def test_versions_are_folders_of_digits(tmp_path: Path) -> None:
    for name in ("3", "10", "²", "٣", "x", "-1", "9" * 40):
        (tmp_path / name).mkdir()
    assert versions_of(tmp_path) == [3, 10]
