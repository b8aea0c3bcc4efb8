import numpy as np
import pytest

from nuclei.quality.drift import Bins, Drift, psi
from nuclei.quality.reference import FeatureReference, GroupReference
from nuclei.results.quality import Quality

WINDOW = 100
DECILES = tuple(np.linspace(0, 1, 21).tolist())
GROUP = GroupReference(
    1000,
    0.01,
    {name: FeatureReference(DECILES, (None, None), 0.3) for name in ("focus", "coverage")},
)


def test_the_index_is_that_of_the_textbook() -> None:
    # Two bins: (0.4 - 0.5) ln(0.4 / 0.5) + (0.6 - 0.5) ln(0.6 / 0.5).
    assert psi(np.array([0.5, 0.5]), np.array([0.4, 0.6])) == pytest.approx(0.0405465, abs=1e-7)
    assert psi(np.array([0.1] * 10), np.array([0.1] * 10)) == 0


def test_bins_are_the_deciles_and_those_that_are_equal_share_one() -> None:
    assert Bins(DECILES).expected.tolist() == pytest.approx([0.1] * 10)
    mostly_zero = (0.0,) * 17 + (0.1, 0.2, 0.3, 0.4)
    bins = Bins(mostly_zero)
    assert bins.expected.tolist() == pytest.approx([0.8, 0.1, 0.1])
    assert bins.of(np.array([0.0, 0.05, 0.2, 9.0])).tolist() == [0, 1, 1, 2]
    assert len(Bins((3.0,) * 21)) == 1


def test_frames_of_the_reference_do_not_drift_and_others_do() -> None:
    rng = np.random.default_rng(0)
    drift = Drift(GROUP, WINDOW)
    for usual, other in zip(rng.random(WINDOW), 0.5 + rng.random(WINDOW) / 2, strict=True):
        drift.add(Quality(focus=usual, coverage=other))
    values = drift.values()
    assert values["focus"] < 0.2
    assert values["coverage"] > 0.5


def test_the_oldest_frames_leave_the_window() -> None:
    drift = Drift(GROUP, WINDOW)
    for _ in range(WINDOW):
        drift.add(Quality(focus=0.99))
    assert drift.values()["focus"] > 1
    for value in np.linspace(0, 1, WINDOW):
        drift.add(Quality(focus=value))
    assert drift.values()["focus"] < 0.05


def test_a_measure_has_no_index_until_its_window_is_full() -> None:
    drift = Drift(GROUP, WINDOW)
    for number in range(WINDOW):
        assert drift.frames == number
        assert drift.values() == {}
        drift.add(Quality(focus=0.5, coverage=0.5 if number % 2 else None))
    assert drift.frames == WINDOW
    assert list(drift.values()) == ["focus"]
