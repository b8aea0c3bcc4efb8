from collections.abc import Callable

import numpy as np
import pytest

from training.data.dataset import Sample

MakeSample = Callable[[str, str, tuple[int, int], int], Sample]


def disc_sample(name: str, modality: str, shape: tuple[int, int], seed: int) -> Sample:
    """A frame of bright discs on noise, with its labels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.uint16)
    for number in range(1, 9):
        cy, cx, radius = rng.integers(shape[0]), rng.integers(shape[1]), rng.integers(5, 14)
        labels[(np.hypot(y - cy, x - cx) < radius) & (labels == 0)] = number
    numbers = np.unique(labels, return_inverse=True)[1]
    labels = numbers.reshape(shape).astype(np.uint16)
    n_channels = 3 if modality == "histology" else 1
    light = np.where(labels[..., None] > 0, 180, 40) + rng.normal(0, 8, (*shape, n_channels))
    pixels = (255 - light if modality == "histology" else light).clip(0, 255).astype(np.uint8)
    return Sample(name, modality, pixels, labels)


@pytest.fixture(scope="session")
def make_sample() -> MakeSample:
    return disc_sample


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    modalities = ["fluorescence"] * 8 + ["histology"] * 4
    return [
        disc_sample(f"{modality}-{seed}", modality, (96, 128), seed)
        for seed, modality in enumerate(modalities)
    ]
