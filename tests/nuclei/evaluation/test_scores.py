import io
import json

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from nuclei.errors import InvalidData
from nuclei.evaluation.coco import Candidates
from nuclei.evaluation.scores import Evaluation, ImageScores


def labels(*columns: int) -> NDArray[np.uint16]:
    """A frame with a nucleus of 4 x 4 pixels at each column."""
    image = np.zeros((10, 60), np.uint16)
    for label, column in enumerate(columns, start=1):
        image[3:7, column : column + 4] = label
    return image


EVALUATION = Evaluation(
    (
        ImageScores.of("a", "fluorescence", labels(0, 10), labels(0, 10)),
        ImageScores.of("b", "fluorescence", labels(0, 10), labels(0)),
        ImageScores.of("c", "histology", labels(0, 10, 20, 30), labels(50)),
    )
)


def test_scores_are_means_over_images_and_counts_are_sums() -> None:
    overall, by_modality = EVALUATION.overall(), EVALUATION.by_modality()
    assert overall["dsb_score"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert by_modality["fluorescence"]["dsb_score"] == pytest.approx(0.75)
    assert by_modality["histology"]["dsb_score"] == 0
    assert (overall["n_true"], overall["n_predicted"]) == (8, 4)
    assert by_modality["fluorescence"]["recall_0.50"] == pytest.approx((1 + 0.5) / 2)


def test_json_holds_overall_modalities_and_images() -> None:
    content = json.loads(EVALUATION.to_json())
    assert content["overall"] == EVALUATION.overall()
    assert content["by_modality"] == EVALUATION.by_modality()
    assert [image["name"] for image in content["images"]] == ["a", "b", "c"]
    assert content["images"][1]["modality"] == "fluorescence"
    assert content["images"][1]["ap_0.50"] == 0.5


def test_table_shows_every_modality_in_eighty_columns() -> None:
    file = io.StringIO()
    Console(file=file, width=80).print(EVALUATION.table("unet 3"))
    text = file.getvalue()
    assert "…" not in text
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    values = {row[0]: row[1:] for row in rows if row}
    assert values["images"] == ["2", "1", "3", ""]
    assert values["nuclei found"] == ["3", "1", "4", ""]
    assert values["missed"] == ["1", "4", "5", ""]
    assert values["DSB score"][:3] == ["0.750", "0.000", "0.500"]
    low, high = EVALUATION.interval("dsb_score")
    assert values["DSB score"][3] == f"{low:.2f}\N{EN DASH}{high:.2f}"


def test_other_sizes_are_named() -> None:
    with pytest.raises(InvalidData, match=r"plate 7: .*same size"):
        ImageScores.of("plate 7", "histology", labels(0), labels(0)[:5])


def test_no_image_is_no_evaluation() -> None:
    with pytest.raises(InvalidData, match="at least one"):
        Evaluation(())


def test_intervals_hold_the_mean_and_are_of_images() -> None:
    scores = EVALUATION.overall()
    low, high = EVALUATION.interval("dsb_score")
    assert low < scores["dsb_score"] < high
    assert EVALUATION.interval("dsb_score", "histology") == (0, 0)
    assert list(EVALUATION.values("dsb_score", "fluorescence")) == [1, 0.5]
    assert json.loads(EVALUATION.to_json())["interval"]["dsb_score"] == [low, high]


def test_nuclei_are_scored_by_their_size() -> None:
    truth, predicted = np.zeros((2, 60, 100), np.uint16)
    truth[0:5, 0:5], truth[10:30, 0:10], truth[0:40, 50:80] = 1, 2, 3
    predicted[10:30, 0:8], predicted[0:40, 50:90], predicted[50:60, 0:40] = 1, 2, 3
    sizes = Evaluation((ImageScores.of("a", "x", truth, predicted),)).by_size()
    assert list(sizes) == ["under 100 px", "100 to 300 px", "300 to 1000 px", "1000 px and more"]
    small, medium, large, largest = sizes.values()
    assert (small["n_true"], small["recall_0.50"], small["precision_0.50"]) == (1, 0, None)
    assert (medium["recall_0.50"], medium["recall_0.75"]) == (1, 1)
    assert medium["iou"] == pytest.approx(0.8)
    assert (large["n_true"], large["precision_0.50"], large["iou"]) == (0, 0, None)
    assert (largest["recall_0.50"], largest["iou"]) == (1, 0.75)
    assert largest["recall_0.75"] == 0


def test_coco_scores_need_the_candidates_of_every_image() -> None:
    candidates = Candidates(labels(0, 10), np.array([0.9, 0.4], np.float32))
    scored = ImageScores.of("a", "x", labels(0, 10), labels(0), candidates)
    assert Evaluation((*EVALUATION.images, scored)).coco == {}
    coco = Evaluation((scored,)).coco
    assert coco["mask_ap"] == coco["box_ap"] == coco["mask_ar_small"] == 1
    assert coco["mask_ap_large"] is None
    assert Evaluation((scored,)).coco_by_modality == {"x": coco}


def test_candidates_without_scores_name_the_image() -> None:
    unscored = Candidates(labels(0, 10), np.zeros(0, np.float32))
    with pytest.raises(InvalidData, match="plate 7: there are 2 nuclei and 0 scores"):
        ImageScores.of("plate 7", "x", labels(0), labels(0), unscored)
