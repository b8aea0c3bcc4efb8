import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from training.data.dataset import Sample
from training.data.targets import target_maps

# Benchmarks are scripts that import one another from their own folder.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    """Ten frames of two modalities, each with touching squares."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(10):
        labels = np.zeros((64, 80), np.uint16)
        for index in range(6):
            y, x = 4 + 30 * (index // 3), 4 + 18 * (index % 3)
            labels[y : y + rng.integers(12, 19), x : x + 18] = index + 1
        modality = "histology" if number % 2 else "fluorescence"
        pixels = (labels[..., None] > 0).astype(np.uint8) * 200
        found.append(Sample(str(number), modality, pixels, labels))
    return found


@pytest.fixture(scope="session")
def maps(samples: list[Sample]) -> list[NDArray[np.uint8]]:
    """The maps that a perfect network would give."""
    return [np.rint(target_maps(sample.labels) * 255).astype(np.uint8) for sample in samples]
