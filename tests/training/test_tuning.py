from dataclasses import replace

import numpy as np

from nuclei.imaging.tiles import plan_tiles
from nuclei.inference.contract import Contract
from nuclei.postprocessing.accumulation import Maps
from nuclei.postprocessing.watershed import WatershedParameters
from training.data.dataset import Sample
from training.data.targets import target_maps
from training.tuning import APART, Tuner


def unsure(sample: Sample, level: int = 140, fog: int = 0) -> Maps:
    """The truth, as answered by a network that is always unsure; 255 would be sure.

    Where there is no nucleus it sees this much of one.
    """
    maps = np.maximum(target_maps(sample.labels) * level, [[[fog]], [[0]], [[0]]]).astype(np.uint8)
    side = -(-max(maps.shape[1:]) // 32) * 32
    found = Maps(("MAPS",), Contract("unet").maps, plan_tiles(*maps.shape[1:], side, 0, 32))
    missing = [(0, side - length) for length in maps.shape[1:]]
    found.add(0, {"MAPS": np.pad(maps, [(0, 0), *missing])[None]})
    return found


def test_tuning_never_loses_and_finds_a_shifted_threshold(samples: list[Sample]) -> None:
    untuned = Contract("unet")
    tuner = Tuner(untuned, samples, [unsure(sample) for sample in samples])
    everything = np.arange(len(samples))
    best = tuner.best(everything)
    assert isinstance(best.postprocessing, WatershedParameters)
    assert best.postprocessing.foreground_threshold < 0.55
    assert best.colour_postprocessing is None
    strict = replace(
        untuned, postprocessing=replace(WatershedParameters(), foreground_threshold=0.6)
    )
    assert tuner.scores(best).mean() >= tuner.scores(untuned).mean()
    assert tuner.scores(best).mean() > tuner.scores(strict).mean() + 0.3
    assert 0.5 < tuner.cross_validated_score(seed=0) <= tuner.scores(best).mean() + 1e-9


def test_frames_in_colour_get_parameters_of_their_own_where_there_are_enough() -> None:
    """Here the network is unsure of grey frames alone."""
    labels = np.zeros((48, 48), np.uint16)
    labels[8:24, 8:24], labels[28:44, 20:36] = 1, 2
    grey = np.where(labels[..., None] > 0, np.uint8(200), np.uint8(20))
    colour = np.concatenate([grey, grey // 2, grey], axis=2)
    pixels = [grey] * APART + [colour] * APART
    samples = [Sample(str(n), "mixed", one, labels) for n, one in enumerate(pixels)]
    answers = [unsure(s, 140 if s.pixels.shape[2] == 1 else 255) for s in samples]
    tuner = Tuner(Contract("unet"), samples, answers)
    best = tuner.best(np.arange(2 * APART))
    assert best.parameters["grey"].threshold < 0.55
    assert best.parameters["colour"] == WatershedParameters()
    assert tuner.scores(best).min() > 0.9
    # Of grey frames alone, or few others: what is known of those in colour stays.
    strict = replace(best, colour_postprocessing=WatershedParameters(foreground_threshold=0.6))
    known = Tuner(replace(strict, postprocessing=WatershedParameters()), samples, answers)
    assert known.best(np.arange(APART)) == strict
    assert known.best(np.arange(2 * APART - 1)) == strict
    # One image of colour less is too few for parameters of its own.
    assert tuner.best(np.arange(2 * APART - 1)).colour_postprocessing is None


def test_a_gain_does_not_pay_for_what_others_lose_against_a_parent() -> None:
    """A lower threshold finds the nuclei of one laboratory, and only fog in another's images."""
    labels = np.zeros((48, 48), np.uint16)
    labels[8:24, 8:24], labels[28:44, 20:36] = 1, 2
    pixels = np.where(labels[..., None] > 0, np.uint8(200), np.uint8(20))
    dim = [Sample(str(n), "fluorescence", pixels, labels, source="dim") for n in range(3)]
    foggy = [Sample(str(n), "fluorescence", pixels, labels, source="foggy") for n in (3, 4)]
    answers = [unsure(one, 135) for one in dim] + [unsure(one, 255, fog=133) for one in foggy]
    every, samples = np.arange(5), [*dim, *foggy]
    new = Contract("unet", postprocessing=WatershedParameters(min_score=0.0))
    tuner = Tuner(new, samples, answers)
    assert tuner.scores(new).tolist() == [0, 0, 0, 1, 1]
    tuned = tuner.scores(tuner.best(every))
    assert tuned[:3].tolist() == [1, 1, 1]
    assert tuned[3:].max() < 0.2
    parent = replace(new, colour_postprocessing=new.postprocessing)
    assert Tuner(parent, samples, answers).best(every) == parent
