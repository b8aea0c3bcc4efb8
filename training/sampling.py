"""Which image each training crop comes from: balanced over image kinds and sizes."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from training.augmentation import Augmentation, random_crop
from training.dataset import Sample
from training.targets import target_maps


def balanced_weights(samples: Sequence[Sample]) -> NDArray[np.float64]:
    """Probability of each sample: every (kind, size) group weighs the square root of its count.

    Square roots lie between sampling images evenly (rare kinds drown) and groups evenly (the single
    image of a group would be learnt by heart).
    """
    groups = [(sample.kind, sample.labels.shape) for sample in samples]
    count = Counter(groups)
    weights = np.array([count[group] ** -0.5 for group in groups])
    return weights / weights.sum()


class CropDataset(Dataset[tuple[Tensor, Tensor]]):
    """Endless augmented crops; crop `index` depends on (seed, index) alone, on any machine.

    Items: image float32 [3, S, S] in [0, 1], targets float32 [3, S, S] (see `target_maps`).
    """

    def __init__(
        self, samples: Sequence[Sample], size: int, augmentation: Augmentation, seed: int
    ) -> None:
        self._samples = samples
        self._cumulative = np.cumsum(balanced_weights(samples))
        self._size = size
        self._augmentation = augmentation
        self._seed = seed

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self._seed, index])
        chosen = min(int(np.searchsorted(self._cumulative, rng.random())), len(self._samples) - 1)
        sample = self._samples[chosen]
        image, labels = random_crop(
            sample.pixels, sample.labels, self._size, self._augmentation, rng
        )
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(target_maps(labels))


class CountingSampler(Sampler[int]):
    """Indices start, start + 1, ... stop - 1, so that a resumed run goes on with unseen crops."""

    def __init__(self, start: int, stop: int) -> None:
        self._indices = range(start, stop)

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)
