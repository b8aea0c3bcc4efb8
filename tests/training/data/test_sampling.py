from dataclasses import replace

import numpy as np
import torch

from training.data.dataset import Sample
from training.data.sampling import CropDataset, ShareSampler, balanced_weights
from training.schedule import Augmentation


def test_rare_modalities_are_shown_more_often_than_their_share(samples: list[Sample]) -> None:
    weights = balanced_weights(samples)
    histology = sum(
        weight for weight, s in zip(weights, samples, strict=True) if s.modality == "histology"
    )
    assert np.isclose(weights.sum(), 1)
    assert np.isclose(histology, 4**0.5 / (4**0.5 + 8**0.5))


def test_small_sources_are_shown_more_often_than_their_share(samples: list[Sample]) -> None:
    mixed = [replace(s, source="small" if n < 2 else "large") for n, s in enumerate(samples[:8])]
    weights = balanced_weights(mixed)
    assert np.isclose(weights[:2].sum(), 2**0.5 / (2**0.5 + 6**0.5))


def test_a_crop_depends_on_seed_and_index_alone(samples: list[Sample]) -> None:
    def crop(seed: int, index: int) -> torch.Tensor:
        return CropDataset(samples, np.asarray, 64, Augmentation(), seed)[index][0]

    assert torch.equal(crop(1, 5), crop(1, 5))
    assert not torch.equal(crop(1, 5), crop(1, 6))
    assert not torch.equal(crop(1, 5), crop(2, 5))


def test_items_are_images_and_what_is_made_of_their_labels(samples: list[Sample]) -> None:
    image, labels = CropDataset(samples, np.asarray, 64, Augmentation(), 0)[0]
    assert (image.shape, image.dtype) == ((3, 64, 64), torch.float32)
    assert (labels.shape, labels.dtype) == ((64, 64), np.uint16)


def test_the_sampler_counts_on() -> None:
    assert list(ShareSampler(range(3, 6), 2)) == [6, 7, 8, 9, 10, 11]


def test_processes_share_each_batch() -> None:
    shares = [list(ShareSampler(range(2), 6, number, 3)) for number in range(3)]
    assert shares == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]


def test_unbalanced_crops_are_as_common_as_their_images(samples: list[Sample]) -> None:
    def share_of_histology(balanced: bool) -> float:
        modalities = np.repeat(np.arange(2), (8, 4))
        truth = [
            Sample(s.id, s.modality, s.pixels, np.full_like(s.labels, modality))
            for s, modality in zip(samples, modalities, strict=True)
        ]
        crops = CropDataset(truth, np.max, 8, Augmentation(), 0, balanced)
        return float(np.mean([crops[index][1] for index in range(600)]))

    assert abs(share_of_histology(False) - 1 / 3) < 0.05
    assert abs(share_of_histology(True) - 2 / (2 + 8**0.5)) < 0.05
