import json

import numpy as np
import pytest
from numpy.typing import NDArray

from nuclei.console import output
from nuclei.errors import InvalidData
from nuclei.evaluation.coco import Candidates
from nuclei.evaluation.comparison import UNKNOWN, Comparison, Entry, Grid, Row
from nuclei.evaluation.scores import Evaluation, ImageScores
from nuclei.evaluation.timing import Cost


def labels(*columns: int) -> NDArray[np.uint16]:
    """A frame with a nucleus of 4 x 4 pixels at each column."""
    image = np.zeros((10, 60), np.uint16)
    for label, column in enumerate(columns, start=1):
        image[3:7, column : column + 4] = label
    return image


def evaluation(*found: tuple[int, ...], scored: bool = False) -> Evaluation:
    """Scores of images with nuclei at 0 and 10, of two modalities in turn."""
    images = []
    for number, columns in enumerate(found):
        answer = labels(*columns)
        candidates = Candidates(answer, np.ones(len(columns), np.float32)) if scored else None
        modality = "histology" if number % 2 else "fluorescence"
        images.append(ImageScores.of(f"{number}", modality, labels(0, 10), answer, candidates))
    return Evaluation(tuple(images))


COST = Cost(1_234_567.0, None, None, 40.0, 160.0, 512.0)
GOOD = Entry("good", evaluation((0, 10), (0, 10), (0,), (0, 10), scored=True), COST)
BAD = Entry("bad", evaluation((0,), (0,), (20,), (0, 10)))
COMPARISON = Comparison((GOOD, BAD))


def grid(title: str) -> Grid:
    return next(found for found in COMPARISON.grids() if found.title == title)


def row(title: str, name: str) -> Row:
    return next(found for found in grid(title).rows if found.name == name)


def test_scores_stand_side_by_side_with_intervals() -> None:
    assert grid("Scores").columns == ("good", "bad")
    scores = row("Scores", "DSB score")
    assert scores.cells[0].startswith("0.875 (")
    assert scores.cells[1].startswith("0.500 (")
    assert scores.best == (0,)
    assert row("Scores", "count error").best == (0,)
    assert row("Scores", "nuclei").cells == ("8", "8")
    assert row("DSB score by modality", "histology (2)").cells[1].startswith("0.750")
    ap = row("AP@.50 / .70 / .90 by modality", "fluorescence")
    assert ap.cells == ("0.750 / 0.750 / 0.750", "0.250 / 0.250 / 0.250")


def test_every_two_are_tested() -> None:
    (test,) = COMPARISON.tests().items()
    assert test[0] == ("good", "bad")
    assert test[1].difference == pytest.approx(0.375)
    assert (test[1].better, test[1].worse) == (3, 0)
    assert test[1].p == pytest.approx(2 / 8)
    (line,) = grid("Differences of the DSB score").rows
    assert line.cells[0] == "+0.3750"


def test_errors_are_counted_for_a_hundred_nuclei() -> None:
    assert row("Errors", "missed").cells == ("1 (12.5 %)", "4 (50.0 %)")
    assert row("Errors", "extra").cells == ("0 (0.0 %)", "1 (12.5 %)")
    assert row("Errors", "merged").best == ()


def test_what_is_not_known_is_left_open() -> None:
    known, unknown = row("COCO scores of masks", "AP").cells
    assert known.startswith("0.871 (")
    assert unknown == UNKNOWN
    assert row("COCO scores of boxes", "AP large").cells == (UNKNOWN, UNKNOWN)
    assert row("COCO scores of masks", "AP fluorescence").cells == ("0.752", UNKNOWN)
    assert row("Cost", "parameters").cells == ("1,234,567", UNKNOWN)
    assert row("Cost", "training, minutes").cells == (UNKNOWN, UNKNOWN)
    titles = [found.title for found in Comparison((BAD,)).grids()]
    assert not {"Cost", "COCO scores of masks", "Differences of the DSB score"} & set(titles)


def test_sizes_give_recall_and_precision() -> None:
    assert row("By size of nucleus", "under 100 px (8)").cells == ("0.875 / 1.000", "0.500 / 0.800")


def test_grids_print_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    odd = Grid("[/t]", "[/n]", ("[bold]",), (Row("[/x]\x1b", ("1",), (0,)),))
    output().print(odd.table())
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("[/t]", "[/n]", "[bold]", r"[/x]\x1b"))


def test_everything_is_json() -> None:
    found = json.loads(json.dumps(COMPARISON.to_dict(), allow_nan=False))
    assert found["models"]["good"]["cost"]["ms_per_image"] == 40
    assert found["models"]["bad"]["overall"]["dsb_score"] == 0.5
    assert found["tests"][0]["models"] == ["good", "bad"]


def test_the_same_name_twice_is_refused() -> None:
    with pytest.raises(InvalidData, match="good is compared with itself"):
        Comparison((GOOD, GOOD))


def test_other_images_are_refused() -> None:
    other = Entry("other", Evaluation(GOOD.evaluation.images[:2]))
    with pytest.raises(InvalidData, match="good and other were evaluated on other images"):
        Comparison((GOOD, other))
