import numpy as np
import pytest
from numpy.typing import NDArray

from training.data.dataset import Sample

Maps = list[NDArray[np.uint8]]


def test_every_way_finds_nuclei_that_lie_apart(maps: Maps) -> None:
    from markers import WAYS

    apart = np.zeros_like(maps[0])
    for y, x in ((5, 5), (5, 45), (40, 20)):
        apart[0, y : y + 15, x : x + 15] = 255
        apart[2, y : y + 15, x : x + 15] = np.minimum(*np.mgrid[20:35, 20:35])
    for name, way in WAYS.items():
        assert way.label(apart, way.start).max() == 3, name


def test_markers_part_what_touches_and_components_do_not(samples: list[Sample], maps: Maps) -> None:
    from markers import WAYS, dsb_scores

    def score(name: str) -> float:
        way = WAYS[name]
        return float(dsb_scores(samples, [way.label(one, way.start) for one in maps]).mean())

    assert score("predicted-distance") > 0.95
    assert score("components") < 0.7


def test_no_image_is_scored_with_options_that_it_chose(samples: list[Sample], maps: Maps) -> None:
    """Two options; on each image the best one is the worst on the images of the other folds."""
    from markers import START, Way, cross_validated, folds

    fold = folds(samples)
    truth = {id(one): sample.labels for one, sample in zip(maps, samples, strict=True)}
    odd = {id(one) for one, number in zip(maps, fold, strict=True) if number == 0}

    def label(one: NDArray[np.uint8], options: dict[str, float]) -> NDArray[np.uint32]:
        right = (id(one) in odd) == (options["min_score"] == 1.0)
        return truth[id(one)].astype(np.uint32) * right

    outcome = cross_validated(Way(label, {"min_score": (0.0, 1.0)}, START), samples, maps)
    assert not outcome.scores[fold == 0].any()
    assert (outcome.scores[fold != 0] == 1).all()


def test_folds_spread_every_modality(samples: list[Sample]) -> None:
    from markers import N_FOLDS, folds

    fold = folds(samples)
    for modality in ("fluorescence", "histology"):
        own = [
            number
            for number, sample in zip(fold, samples, strict=True)
            if sample.modality == modality
        ]
        assert sorted(own) == list(range(N_FOLDS))


def test_rare_modalities_weigh_more_than_their_share(samples: list[Sample]) -> None:
    from markers import modality_weights

    weights = modality_weights(samples[:1] + samples[1::2])
    assert weights[0] == pytest.approx(1)
    assert weights[1:].sum() == pytest.approx(5**0.5)
