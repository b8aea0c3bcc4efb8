import asyncio
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.stats import binom
from sklearn.ensemble import HistGradientBoostingRegressor

from nuclei.imaging.images import frame_from_array, read_frame
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.pipeline import segment
from nuclei.quality.judgement import estimated_score
from nuclei.quality.reference import FEATURES, ScoreModel
from nuclei.results.quality import Quality
from nuclei.results.segmentation import Segmentation
from tests.shipped import SHIPPED
from tests.training.conftest import MakeSample
from training.data.spoiling import SPOILERS
from training.quality import (
    FALSE_ALARM_RATE,
    FALSE_ALARMS_PER_DAY,
    FRAMES_PER_DAY,
    MIN_FRAMES,
    WINDOW,
    Observed,
    calibrated,
    drift_thresholds,
    left_out_estimates,
    limits_of,
    trees_of,
)

ROOT = Path(__file__).parents[2]


def observed(n_images: int, seed: int = 0) -> list[Observed]:
    """Frames of two sources whose score is their mean probability, with some noise."""
    rng = np.random.default_rng(seed)
    frames = []
    for index in range(n_images):
        for clean in (True, False):
            sure = rng.uniform(0.7, 1) if clean else rng.uniform(0.3, 1)
            quality = Quality(
                coverage=rng.uniform(0.1, 0.5),
                median_area_px=rng.lognormal(5, 0.3),
                area_spread=rng.uniform(0.3, 0.8),
                mean_probability=sure,
                boundary_entropy=rng.uniform(0.4, 0.6),
                near_threshold=rng.uniform(0.05, 0.1),
                focus=rng.lognormal(-2, 0.3),
                saturated=0.0,
                signal_to_noise=rng.lognormal(3, 0.3),
            )
            score = float(np.clip(sure + rng.normal(0, 0.03), 0, 1))
            source = f"source {index % 2}"
            frames.append(Observed(quality, score, source, str(index), "x", "grey", clean))
    return frames


def test_trees_in_a_contract_say_what_the_regressor_predicts() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((400, 3))
    scores = np.clip(values[:, 0] * 0.7 + 0.3 * values[:, 1] ** 2, 0, 1)
    regressor = HistGradientBoostingRegressor(max_iter=30, max_leaf_nodes=8).fit(values, scores)
    trees, base = trees_of(regressor)
    names = ("coverage", "mean_probability", "focus")
    model = ScoreModel(names, ((0.0, 1.0),) * 3, base, trees, 0.0, 0.0, 1)
    others = rng.random((200, 3))
    found = [
        estimated_score(Quality(**dict(zip(names, row, strict=True))), model)
        for row in others.tolist()
    ]
    assert found == pytest.approx(regressor.predict(others).clip(0, 1), abs=1e-4)


def test_limits_warn_of_the_stated_share_of_new_frames() -> None:
    rng = np.random.default_rng(1)
    n, new = 1000, 20_000

    def frames(count: int) -> dict[str, np.ndarray]:
        common = rng.normal(0, 1, count)
        return {
            "focus": np.exp(common + rng.normal(0, 1, count)),
            "median_area_px": np.exp(5 + 0.5 * common + rng.normal(0, 0.3, count)),
            "boundary_entropy": rng.beta(20, 20, count),
        }

    limits, rate = limits_of(frames(n), rng)
    assert rate == pytest.approx(FALSE_ALARM_RATE, rel=0.1)
    later = frames(new)
    outside = np.zeros(new, bool)
    for name, (lo, hi) in limits.items():
        outside |= later[name] < (-np.inf if lo is None else lo)
        outside |= later[name] > (np.inf if hi is None else hi)
    # Of a thousand frames the number beyond the true limit is binomial, too.
    low, high = binom.ppf((0.001, 0.999), n, rate) / n
    assert low <= outside.mean() <= high


def test_few_frames_promise_no_smaller_rate_than_they_can_tell() -> None:
    rng = np.random.default_rng(0)
    _, rate = limits_of({"focus": rng.lognormal(0, 1, 30)}, rng)
    assert rate == pytest.approx(1 / 31)


def test_few_saturated_pixels_of_one_frame_widen_no_other_limit() -> None:
    focus, saturated = np.random.default_rng(0).lognormal(0, 1, 60), np.zeros(60)
    without, _ = limits_of({"focus": focus, "saturated": saturated}, np.random.default_rng(0))
    saturated[7] = 0.005
    with_one, _ = limits_of({"focus": focus, "saturated": saturated}, np.random.default_rng(0))
    assert with_one == without


def test_drift_is_alarmed_of_on_the_stated_share_of_days() -> None:
    rng = np.random.default_rng(0)
    measures = {"focus": rng.lognormal(0, 1, 2000), "coverage": rng.random(2000)}
    thresholds = drift_thresholds(measures, rng, 400)
    days, alarms = 200, 0
    for _ in range(days):
        alarms += any(
            _largest(rng.choice(values, FRAMES_PER_DAY), values) > thresholds[name]
            for name, values in measures.items()
        )
    assert alarms <= binom.ppf(0.999, days, 2 * FALSE_ALARMS_PER_DAY)
    shifted = rng.choice(measures["coverage"], FRAMES_PER_DAY) ** 2
    assert _largest(shifted, measures["coverage"]) > thresholds["coverage"]


def _largest(frames: np.ndarray, values: np.ndarray) -> float:
    """The largest index of a day, computed without sliding sums."""
    edges = np.quantile(values, np.linspace(0.1, 0.9, 9))
    largest = 0.0
    for end in range(WINDOW, len(frames) + 1, 50):
        inside = np.searchsorted(edges, frames[end - WINDOW : end])
        shares = (np.bincount(inside, minlength=10) + 0.5) / (WINDOW + 5)
        largest = max(largest, float(((shares - 0.1) * np.log(shares / 0.1)).sum()))
    return largest


def test_a_calibration_learns_what_scores_follow_from() -> None:
    frames = observed(100)
    reference = calibrated(frames, days=100)
    assert reference is not None
    assert list(reference.groups) == ["grey"]
    grey = reference.groups["grey"]
    assert grey.frames == 100
    assert grey.score is not None
    assert grey.score.sources == 2
    assert grey.score.error < 0.06
    assert grey.score.correlation > 0.9
    sure, unsure = [
        estimated_score(replace(frames[0].quality, mean_probability=value), grey.score)
        for value in (0.9, 0.5)
    ]
    assert sure > unsure + 0.2
    assert {*grey.features} <= {*FEATURES}
    assert "pixel_size_ratio" not in grey.features


def test_an_estimate_for_a_source_does_not_come_from_its_frames() -> None:
    frames = observed(100)
    lied = [replace(one, score=0.0) if one.source == "source 1" else one for one in frames]
    estimates, sources = left_out_estimates(lied)
    assert sources == 2
    for one, estimate in zip(lied, estimates, strict=True):
        if estimate is not None:
            assert (estimate > 0.2) == (one.source == "source 1")


def test_too_few_frames_give_no_reference() -> None:
    assert calibrated(observed(MIN_FRAMES - 1)) is None


@pytest.mark.parametrize("name", SPOILERS)
@pytest.mark.parametrize("modality", ["fluorescence", "histology"])
def test_a_spoiled_image_fits_its_truth(make_sample: MakeSample, name: str, modality: str) -> None:
    sample = make_sample("a", modality, (96, 128), 0)
    before = sample.pixels.copy()
    found = SPOILERS[name](sample, 0.5, np.random.default_rng(0))
    assert found.pixels.dtype == sample.pixels.dtype
    assert found.pixels.shape == (*found.labels.shape, sample.pixels.shape[2])
    assert set(np.unique(found.labels)) <= set(np.unique(sample.labels))
    assert (sample.pixels == before).all()
    if (name, modality) != ("stained otherwise", "fluorescence"):
        assert not np.array_equal(found.pixels, sample.pixels)


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return LocalEngine(SHIPPED)


def segmented(engine: LocalEngine, pixels: np.ndarray) -> Segmentation:
    return asyncio.run(segment(frame_from_array(pixels), engine, engine.find("unet")))


def test_the_shipped_contract_has_a_reference_and_is_small(engine: LocalEngine) -> None:
    contract = engine.find("unet").contract
    assert contract.quality is not None
    assert set(contract.quality.groups) == {"grey", "colour"}
    assert len(contract.to_json()) < 60_000


@pytest.mark.parametrize("name", ["fluorescence", "histology", "histology_2"])
def test_an_example_is_not_doubtful_and_its_blurred_copy_is_worse(
    engine: LocalEngine, name: str
) -> None:
    pixels = read_frame(ROOT / "examples" / f"{name}.png").pixels
    found = segmented(engine, pixels)
    assert found.doubtful == ()
    assert found.quality.estimated_score > 0.2
    blurred = cv2.GaussianBlur(pixels, (0, 0), 6).reshape(pixels.shape)
    spoiled = segmented(engine, blurred)
    estimate = spoiled.quality.estimated_score
    assert estimate is None or estimate < found.quality.estimated_score - 0.2
    # The public grey images are as different in focus as blurred ones are.
    if name != "fluorescence":
        assert "focus" in spoiled.doubtful
        assert any("out of focus" in sentence for sentence in spoiled.warnings)
