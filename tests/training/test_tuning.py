from dataclasses import replace

import numpy as np

from nuclei.imaging.tiles import plan_tiles
from nuclei.inference.contract import Contract
from nuclei.inference.method import WATERSHED
from nuclei.postprocessing.accumulation import Maps
from nuclei.postprocessing.watershed import WatershedParameters
from training.data.dataset import Sample
from training.data.targets import target_maps
from training.tuning import Tuner


def unsure(sample: Sample) -> Maps:
    """The truth, as answered by a network that is always unsure."""
    maps = (target_maps(sample.labels) * 140).astype(np.uint8)
    side = -(-max(maps.shape[1:]) // 32) * 32
    found = Maps(("MAPS",), Contract("unet").maps, plan_tiles(*maps.shape[1:], side, 0, 32))
    missing = [(0, side - length) for length in maps.shape[1:]]
    found.add(0, {"MAPS": np.pad(maps, [(0, 0), *missing])[None]})
    return found


def test_tuning_never_loses_and_finds_a_shifted_threshold(samples: list[Sample]) -> None:
    tuner = Tuner(WATERSHED, samples, [unsure(sample) for sample in samples])
    everything = np.arange(len(samples))
    best = tuner.best(everything)
    assert isinstance(best, WatershedParameters)
    assert best.foreground_threshold < 0.55
    strict = replace(WatershedParameters(), foreground_threshold=0.6)
    assert tuner.scores(best).mean() >= tuner.scores(WatershedParameters()).mean()
    assert tuner.scores(best).mean() > tuner.scores(strict).mean() + 0.3
    assert 0.5 < tuner.cross_validated_score(seed=0) <= tuner.scores(best).mean() + 1e-9
