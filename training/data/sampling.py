"""Choose the image of each training crop, balanced over sources, modalities and sizes."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from training.data.augmentation import random_crop
from training.data.dataset import Sample
from training.data.stains import stains_of
from training.schedule import Augmentation


def balanced_weights(samples: Sequence[Sample]) -> NDArray[np.float64]:
    """Probability of each sample, float64 [N].

    Every modality of a source weighs the square root of its count, and so does every size within
    it. The square root is a compromise between equal weights for images (rare modalities are
    neglected) and for groups (the only image of a group would be memorised).
    """
    kinds = [(sample.source, sample.modality) for sample in samples]
    sizes = [sample.labels.shape for sample in samples]
    of_kind = Counter(kinds)
    of_size = Counter(zip(kinds, sizes, strict=True))
    shares: dict[tuple[str, str], float] = defaultdict(float)
    for (kind, _), count in of_size.items():
        shares[kind] += count**0.5
    weights = np.array(
        [
            of_kind[kind] ** 0.5 / shares[kind] * of_size[kind, size] ** -0.5
            for kind, size in zip(kinds, sizes, strict=True)
        ]
    )
    return np.asarray(weights / weights.sum())


class CropDataset(Dataset[tuple[Tensor, Any]]):
    """Endless augmented crops; crop `index` depends only on (seed, index), on any machine.

    Items: image float32 [3, S, S] in [0, 1], and the targets made from its labels. All images are
    equally likely unless they are balanced (`balanced_weights`).
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        targets: Callable[[NDArray[np.uint16]], Any],
        size: int,
        augmentation: Augmentation,
        seed: int,
        balanced: bool = True,
    ) -> None:
        self._samples = samples
        self._targets = targets
        even = np.full(len(samples), 1 / len(samples))
        self._cumulative = np.cumsum(balanced_weights(samples) if balanced else even)
        self._stains = [stains_of(sample.pixels) for sample in samples]
        self._stained = [stains for stains in self._stains if stains is not None]
        self._size = size
        self._augmentation = augmentation
        self._seed = seed

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        rng = np.random.default_rng([self._seed, index])
        chosen = min(int(np.searchsorted(self._cumulative, rng.random())), len(self._samples) - 1)
        sample = self._samples[chosen]
        own = self._stains[chosen]
        other = None if own is None else self._stained[rng.integers(len(self._stained))]
        image, labels = random_crop(
            *(sample.pixels, sample.labels, self._size, self._augmentation, rng),
            None if own is None or other is None else (own, other),
        )
        return torch.from_numpy(image).permute(2, 0, 1), self._targets(labels)


class ShareSampler(Sampler[int]):
    """The crops of one of the processes of a training: an equal share of each step's batch.

    Indices go on from step to step, so that a resumed run continues with unseen crops, and all
    processes together see those that one process would.
    """

    def __init__(self, steps: range, batch_size: int, number: int = 0, size: int = 1) -> None:
        """Take the share of a process.

        Args:
            steps: to make, from 0.
            batch_size: crops per step of all processes together, a multiple of `size`.
            number: of the process, from 0.
            size: the number of processes.
        """
        self._steps = steps
        self._batch_size = batch_size
        self._share = batch_size // size
        self._first = number * self._share

    def __iter__(self) -> Iterator[int]:
        for step in self._steps:
            first = step * self._batch_size + self._first
            yield from range(first, first + self._share)

    def __len__(self) -> int:
        return len(self._steps) * self._share
