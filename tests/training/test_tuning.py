from dataclasses import replace

import numpy as np

from nuclei.contract import WatershedParameters
from training.dataset import Sample
from training.targets import target_maps
from training.tuning import Tuner


def test_tuning_never_loses_and_finds_a_shifted_threshold(samples: list[Sample]) -> None:
    maps = [(target_maps(sample.labels) * 140).astype(np.uint8) for sample in samples]
    tuner = Tuner(samples, maps)
    everything = np.arange(len(samples))
    best = tuner.best(everything)
    assert best.foreground_threshold < 0.55
    strict = replace(WatershedParameters(), foreground_threshold=0.6)
    assert tuner.scores(best).mean() >= tuner.scores(WatershedParameters()).mean()
    assert tuner.scores(best).mean() > tuner.scores(strict).mean() + 0.3
    assert 0.5 < tuner.cross_fitted_score(seed=0) <= tuner.scores(best).mean() + 1e-9
