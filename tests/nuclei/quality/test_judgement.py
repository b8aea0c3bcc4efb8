import numpy as np
import pytest

from nuclei.quality.judgement import estimated_score, group_of, judge
from nuclei.quality.reference import (
    FeatureReference,
    GroupReference,
    QualityReference,
    ScoreModel,
    Tree,
)
from nuclei.quality.sentences import THOSE
from nuclei.results.quality import Quality

# Below 0.5 of mean probability 0.3, above it 0.6, and 0.2 more from 0.8 on.
TREES = (
    Tree((0, -1, -1), (0.5, 0.0, 0.0), (1, -1, -1), (2, -1, -1), (0.0, -0.2, 0.1)),
    Tree((0, -1, -1), (0.8, 0.0, 0.0), (1, -1, -1), (2, -1, -1), (0.0, 0.0, 0.2)),
)
SCORE = ScoreModel(("mean_probability",), ((0.2, 0.95),), 0.5, TREES, 0.1, 0.7, 3)


def feature(lo: float | None, median: float, hi: float | None) -> FeatureReference:
    return FeatureReference((median,) * 21, (lo, hi), 0.2)


GREY = GroupReference(
    100,
    0.01,
    {
        "focus": feature(0.1, 0.16, None),
        "median_area_px": feature(100, 200, 400),
        "saturated": feature(None, 0.0, 0.02),
        "estimated_score": feature(0.4, 0.8, None),
        "coverage": feature(None, 0.2, None),
    },
    SCORE,
)
REFERENCE = QualityReference({"grey": GREY}, 200, 2000, 0.01)
USUAL = Quality(focus=0.15, median_area_px=210, saturated=0.001, mean_probability=0.9, coverage=0.9)

DOUBTFUL: dict[str, tuple[Quality, str, str]] = {
    "blurred": (Quality(focus=0.01), "focus", f"out of focus: 4 times blurrier than {THOSE}"),
    "flat": (Quality(focus=0.0), "focus", f"out of focus: far blurrier than {THOSE}"),
    "small": (
        Quality(median_area_px=50),
        "median_area_px",
        f"small nuclei: 4 times smaller in area than in {THOSE}; check the magnification",
    ),
    "large": (
        Quality(median_area_px=900),
        "median_area_px",
        f"large nuclei: 4.5 times larger in area than in {THOSE}; check the magnification",
    ),
    "too bright": (
        Quality(saturated=0.123),
        "saturated",
        "overexposed: 12.30% of the pixels are at the camera's largest value; 0.00% is usual",
    ),
    "a poor result": (
        Quality(mean_probability=0.3),
        "estimated_score",
        "a poor result is likely: the estimated DSB score is 0.30; 0.80 is usual",
    ),
}


@pytest.mark.parametrize("case", DOUBTFUL)
def test_a_measure_outside_of_its_limits_is_said_with_a_multiple(case: str) -> None:
    quality, kind, sentence = DOUBTFUL[case]
    (doubt,) = judge(quality, REFERENCE, "grey").doubts
    assert (doubt.kind, doubt.sentence) == (kind, sentence)


def test_a_usual_frame_is_not_doubtful_and_has_an_estimate() -> None:
    judgement = judge(USUAL, REFERENCE, "grey")
    assert not judgement.doubts
    assert judgement.quality.estimated_score == pytest.approx(0.8)


def test_a_model_without_a_reference_of_the_group_judges_nothing() -> None:
    bad = Quality(focus=0, mean_probability=0.3)
    assert judge(bad, None, "grey").quality == bad
    assert judge(bad, REFERENCE, "colour").quality == bad
    assert not judge(bad, None, "grey").doubts + judge(bad, REFERENCE, "colour").doubts


@pytest.mark.parametrize(
    ("probability", "score"),
    [(0.3, 0.3), (0.5, 0.3), (0.7, 0.6), (0.9, 0.8), (0.1, None), (0.99, None), (None, None)],
)
def test_a_score_is_the_sum_of_its_trees_and_unknown_outside_of_what_they_saw(
    probability: float | None, score: float | None
) -> None:
    estimate = estimated_score(Quality(mean_probability=probability), SCORE)
    assert estimate == (None if score is None else pytest.approx(score))


def test_colour_is_three_channels_that_differ_somewhere() -> None:
    grey = np.zeros((64, 64, 3), np.uint8)
    assert group_of(grey) == "grey"
    assert group_of(grey[..., :1]) == "grey"
    tinted = grey.copy()
    tinted[33, 17, 2] = 1
    assert group_of(tinted) == "colour"
