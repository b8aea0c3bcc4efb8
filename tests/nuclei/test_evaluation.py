import io
import json

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from nuclei.errors import InvalidData
from nuclei.evaluation import (
    Comparison,
    Evaluation,
    ImageScores,
    figure_of_comparisons,
    figure_of_images,
    figure_of_thresholds,
)
from nuclei.images import Frame


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
    overall, by_kind = EVALUATION.overall(), EVALUATION.by_kind()
    assert overall["dsb_score"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert by_kind["fluorescence"]["dsb_score"] == pytest.approx(0.75)
    assert by_kind["histology"]["dsb_score"] == 0
    assert (overall["n_true"], overall["n_predicted"]) == (8, 4)
    assert by_kind["fluorescence"]["recall_0.50"] == pytest.approx((1 + 0.5) / 2)


def test_json_holds_overall_kinds_and_images() -> None:
    content = json.loads(EVALUATION.to_json())
    assert content["overall"] == EVALUATION.overall()
    assert content["by_kind"] == EVALUATION.by_kind()
    assert [image["name"] for image in content["images"]] == ["a", "b", "c"]
    assert content["images"][1]["kind"] == "fluorescence"
    assert content["images"][1]["ap_0.50"] == 0.5


def test_table_shows_every_kind_in_eighty_columns() -> None:
    file = io.StringIO()
    Console(file=file, width=80).print(EVALUATION.table("unet 3"))
    text = file.getvalue()
    assert "…" not in text
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    values = {row[0]: row[1:] for row in rows if row}
    assert values["images"] == ["2", "1", "3"]
    assert values["nuclei found"] == ["3", "1", "4"]
    assert values["DSB score"] == ["0.750", "0.000", "0.500"]


def test_other_sizes_are_named() -> None:
    with pytest.raises(InvalidData, match=r"plate 7: .*same size"):
        ImageScores.of("plate 7", "histology", labels(0), labels(0)[:5])


def test_no_image_is_no_evaluation() -> None:
    with pytest.raises(InvalidData, match="at least one"):
        Evaluation(())


def test_picture_of_images_ranks_them() -> None:
    axes = figure_of_images(EVALUATION).axes[0]
    heights = {patch.get_x() + 0.5: patch.get_height() for patch in axes.patches}
    assert [heights[rank] for rank in (0, 1, 2)] == pytest.approx([0, 0.5, 1])


def test_picture_of_thresholds_has_a_line_per_kind() -> None:
    axes = figure_of_thresholds(EVALUATION).axes[0]
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert set(lines) == {"fluorescence", "histology", "overall"}
    np.testing.assert_allclose(lines["fluorescence"], 0.75)


def test_picture_of_comparisons_tells_right_from_wrong() -> None:
    frame = Frame(np.zeros((10, 60, 1), np.uint8))
    comparison = Comparison("b", frame, labels(0, 10), labels(0, 30))
    figure = figure_of_comparisons([comparison, comparison])
    assert len(figure.axes) == 8
    difference = figure.axes[3].images[0].get_array()
    right, missed, extra = difference[4, 1], difference[4, 11], difference[4, 31]
    assert right.argmax() == 1
    assert missed.argmax() == 2
    assert extra.argmax() == 0
    assert not difference[0].any()
    figure.savefig(io.BytesIO())
