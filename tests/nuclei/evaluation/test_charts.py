import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nuclei.evaluation.charts import (
    RESULTS,
    PicturedImage,
    charts_of_models,
    error_picture,
    figure_of_comparisons,
    figure_of_images,
    figure_of_thresholds,
)
from nuclei.evaluation.coco import Candidates
from nuclei.evaluation.scores import Evaluation, ImageScores
from nuclei.imaging.images import Frame


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


def test_picture_of_images_ranks_them() -> None:
    axes = figure_of_images(EVALUATION).axes[0]
    bars: list[Any] = list(axes.patches)
    heights = {bar.get_x() + 0.5: bar.get_height() for bar in bars}
    assert [heights[rank] for rank in (0, 1, 2)] == pytest.approx([0, 0.5, 1])


def test_picture_of_thresholds_has_a_line_per_kind() -> None:
    axes = figure_of_thresholds(EVALUATION).axes[0]
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert set(lines) == {"fluorescence", "histology", "overall"}
    np.testing.assert_allclose(lines["fluorescence"], 0.75)


def test_picture_of_comparisons_shows_what_is_right_and_wrong() -> None:
    frame = Frame(np.zeros((10, 60, 1), np.uint8))
    image = PicturedImage("b", frame, labels(0, 10), labels(0, 30))
    figure = figure_of_comparisons([image, image])
    assert len(figure.axes) == 8
    difference = figure.axes[3].images[0].get_array()
    right, missed, extra = difference[4, 1], difference[4, 11], difference[4, 31]
    assert right.argmax() == 1
    assert missed.argmax() == 2
    assert extra.argmax() == 0
    assert not difference[0].any()
    figure.savefig(io.BytesIO())


def test_models_are_drawn_together() -> None:
    scored = ImageScores.of(
        "a", "x", labels(0, 10), labels(0), Candidates(labels(0), np.ones(1, np.float32))
    )
    both = {"first": EVALUATION, "second": Evaluation((scored,))}
    charts = charts_of_models(both)
    assert len(charts) == 6
    for figure in charts.values():
        figure.savefig(io.BytesIO(), format="svg")
    lines = charts["Score against the IoU asked for"].axes[0].lines
    assert [line.get_label() for line in lines] == ["first", "second"]
    np.testing.assert_allclose(lines[0].get_ydata(), 0.5)
    assert "Precision and recall" not in charts_of_models({"first": EVALUATION})


def test_bars_count_errors_for_a_hundred_nuclei() -> None:
    axes = charts_of_models({"first": EVALUATION})["Errors"].axes[0]
    bars: list[Any] = list(axes.patches)
    heights = [bar.get_height() for bar in bars]
    assert heights == pytest.approx([100 * 5 / 8, 100 * 1 / 8, 0, 0])


def test_picture_of_errors_gives_each_fate_its_colour() -> None:
    truth = np.zeros((512, 512), np.uint16)
    for label, x in enumerate((10, 60, 110, 140), start=1):
        truth[10:40, x : x + 30] = label
    truth[100:140, 10:90] = 5
    predicted = np.zeros_like(truth)
    predicted[10:40, 10:40] = 7  # right; the one at 60 is missed
    predicted[10:40, 110:170] = 9  # merges two
    predicted[100:140, 10:50], predicted[100:140, 50:90] = 12, 20  # split in two
    predicted[200:230, 200:230] = 30  # extra
    picture = error_picture(Frame(np.zeros((512, 512, 1), np.uint8)), truth, predicted)
    at = {"right": (10, 20), "missed": (10, 70), "merged": (10, 120), "extra": (200, 210)}
    for name, (y, x) in {**at, "split": (100, 20)}.items():
        assert tuple(picture[y + 1, x]) == RESULTS[name], name
    assert tuple(picture[100, 60]) == RESULTS["split"]
    assert not picture[300, 300].any()


def test_pictures_of_small_frames_are_enlarged_with_their_outlines() -> None:
    frame = Frame(np.full((10, 60, 3), 200, np.uint8))
    picture = error_picture(frame, labels(0), labels(0))
    assert picture.shape == (90, 540, 3)
    assert (picture[27, 0] != picture[80, 300]).any()
