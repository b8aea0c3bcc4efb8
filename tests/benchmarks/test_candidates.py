import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Sample

Maps = list[NDArray[np.uint8]]


def test_the_best_candidates_are_taken_and_those_they_cover_are_not() -> None:
    from candidates import chosen

    whole, left, beside = np.arange(6), np.arange(3), np.arange(8, 12)
    where, predicted = [left, whole, beside, np.arange(13, 15)], np.array([0.7, 0.9, 0.8, 0.1])
    labels = chosen(where, predicted, (2, 8), least=0.5, overlap=0.3)
    assert labels.ravel().tolist() == [1] * 6 + [0] * 2 + [2] * 4 + [0] * 4


def test_candidates_hold_each_nucleus_once(samples: list[Sample], maps: Maps) -> None:
    from candidates import candidates

    found = candidates(samples[0].labels, maps[0])
    assert len(found.where) == len(found.features) == len(found.iou)
    assert (found.iou > 0.9).sum() >= samples[0].labels.max()
    empty = candidates(samples[0].labels, np.zeros_like(maps[0]))
    assert empty.features.shape == (0, found.features.shape[1])


def test_the_learned_score_finds_the_nuclei_of_other_images(
    samples: list[Sample], maps: Maps
) -> None:
    from candidates import best_possible, learned

    half = len(samples) // 2
    teaching = samples[half:], maps[half:]
    outcome = learned(samples[:half], maps[:half], *teaching)
    assert 0.7 < outcome.scores.mean() <= best_possible(samples[:half], maps[:half]).scores.mean()
