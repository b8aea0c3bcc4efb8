from pathlib import Path

import pytest

from nuclei.errors import InvalidData
from nuclei.evaluation.left_out import LEFT_OUT_FILE, LeftOut

SCORES = {"0" * 32: 0.25, "f" * 32: 1.0}


def test_scores_survive_their_file(tmp_path: Path) -> None:
    assert LeftOut.read(tmp_path).scores == {}
    LeftOut(SCORES).write(tmp_path / LEFT_OUT_FILE)
    assert LeftOut.read(tmp_path).scores == SCORES


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"a": 0.5}', f'{{"{"0" * 32}": "0.5"}}', f'{{"{"0" * 32}": NaN}}', "[" * 10**6],
)
def test_what_is_no_scores_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / LEFT_OUT_FILE).write_text(text)
    with pytest.raises(InvalidData, match="train the model again"):
        LeftOut.read(tmp_path)


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("{}")
    (tmp_path / LEFT_OUT_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidData, match="a link"):
        LeftOut.read(tmp_path)
