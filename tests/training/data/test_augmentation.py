import numpy as np
import pytest

from training.data.augmentation import random_crop
from training.data.dataset import Sample
from training.schedule import Augmentation

STILL = Augmentation(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("index", [0, -1])
def test_crops_have_one_form(samples: list[Sample], index: int) -> None:
    sample = samples[index]
    for seed in range(30):
        rng = np.random.default_rng(seed)
        image, labels = random_crop(sample.pixels, sample.labels, 64, Augmentation(), rng)
        assert image.shape == (64, 64, 3)
        assert image.dtype == np.float32
        assert image.min() >= 0
        assert image.max() <= 1
        assert image.flags.writeable
        assert labels.shape == (64, 64)
        assert set(np.unique(labels)) <= set(np.unique(sample.labels))


def test_the_same_seed_gives_the_same_crop(samples: list[Sample]) -> None:
    sample = samples[0]
    first, second = (
        random_crop(sample.pixels, sample.labels, 64, Augmentation(), np.random.default_rng(5))
        for _ in range(2)
    )
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_image_and_labels_move_together(samples: list[Sample]) -> None:
    sample = samples[0]
    moving = Augmentation(gamma_spread=0, range_spread=0, own_range=0, blur=0, noise=0, inversion=0)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        image, labels = random_crop(sample.pixels, sample.labels, 96, moving, rng)
        if 200 < (labels > 0).sum() < 8000:
            assert image[labels > 0].mean() > image[labels == 0].mean() + 0.3


def test_16_bit_frames_are_cropped_like_8_bit_ones(samples: list[Sample]) -> None:
    sample = samples[0]
    deep = sample.pixels.astype(np.uint16) * 257
    crops = [
        random_crop(pixels, sample.labels, 64, STILL, np.random.default_rng(1))[0]
        for pixels in (sample.pixels, deep)
    ]
    np.testing.assert_allclose(crops[0], crops[1], atol=0.01)


def test_an_image_smaller_than_the_crop_is_mirrored(samples: list[Sample]) -> None:
    sample = samples[0]
    image, labels = random_crop(
        sample.pixels[:20, :20], sample.labels[:20, :20], 128, STILL, np.random.default_rng(0)
    )
    assert image.shape == (128, 128, 3)
    assert labels.shape == (128, 128)
