from dataclasses import fields, replace

import numpy as np
import pytest

from training.data.augmentation import random_crop
from training.data.dataset import Sample
from training.schedule import Augmentation

STILL = Augmentation(**{one.name: 0 for one in fields(Augmentation)})


@pytest.mark.parametrize("index", [0, -1])
def test_crops_have_one_form(samples: list[Sample], index: int) -> None:
    sample = samples[index]
    for seed in range(30):
        rng = np.random.default_rng(seed)
        one_layer = replace(Augmentation(), crowd=0)
        image, labels = random_crop(sample.pixels, sample.labels, 64, one_layer, rng)
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
    moving = replace(STILL, scale_spread=0.4, elastic_px=3, rotation=0.5)
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


def test_dim_nuclei_keep_their_place_and_less_of_their_contrast(samples: list[Sample]) -> None:
    sample = samples[0]
    dimming = replace(STILL, dim=1)
    found: list[float] = []
    for seed in range(10):
        image, truth = random_crop(
            sample.pixels, sample.labels, 96, dimming, np.random.default_rng(seed)
        )
        background = image[truth == 0].mean()
        found += [image[truth == n].mean() - background for n in np.unique(truth)[1:]]
    assert min(found) < 0.5 * max(found)
    assert all(contrast > 0.02 for contrast in found)


def test_a_crowd_has_the_light_and_the_nuclei_of_two_crops(samples: list[Sample]) -> None:
    sample = samples[0]
    crowding = replace(STILL, crowd=1)
    for seed in range(10):
        (alone, own), (image, both) = (
            random_crop(sample.pixels, sample.labels, 96, one, np.random.default_rng(seed))
            for one in (STILL, crowding)
        )
        added = ~np.isin(both, [0, *np.unique(own)])
        assert (image >= alone - 1e-6).all()
        assert (both > 0).sum() >= 0.7 * (own > 0).sum()
        if added.sum() > 50:
            assert image[added].mean() > image[both == 0].mean() + 0.2


@pytest.mark.parametrize("name", ["defocus", "jpeg"])
@pytest.mark.parametrize("index", [0, -1])
def test_optics_and_files_spoil_the_look_alone(
    samples: list[Sample], name: str, index: int
) -> None:
    sample = samples[index]
    changed = replace(STILL, **{name: 1})
    crops = [
        random_crop(sample.pixels, sample.labels, 64, one, np.random.default_rng(2))
        for one in (STILL, changed)
    ]
    # What is drawn before is the same.
    assert crops[0][0].shape == crops[1][0].shape
    assert 0.001 < np.abs(crops[0][0] - crops[1][0]).mean() < 0.2
