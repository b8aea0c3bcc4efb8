import numpy as np
import pytest
from numpy.typing import NDArray

from training.data.stains import Stains, density_of, immunostained, paled, restained, stains_of

# Haematoxylin and eosin, haematoxylin and DAB (Ruifrok and Johnston 2001, table 1).
HE = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11))
HDAB = ((0.65, 0.70, 0.29), (0.27, 0.57, 0.78))


def unit(colours: tuple[tuple[float, ...], ...]) -> NDArray[np.float32]:
    vectors = np.array(colours, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def amounts(seed: int) -> NDArray[np.float32]:
    """Of two stains, [64, 64, 2]: pixels of either, and of both."""
    rng = np.random.default_rng(seed)
    found = rng.uniform(0.3, 1.2, (64, 64, 2)).astype(np.float32)
    found[:24, :, 1] = 0
    found[24:48, :, 0] = 0
    return found


def stained(colours: tuple[tuple[float, ...], ...], seed: int = 0) -> NDArray[np.uint8]:
    image = np.exp(-(amounts(seed) @ unit(colours)))
    return np.asarray(np.rint(image * 255), np.uint8)


@pytest.mark.parametrize("colours", [HE, HDAB])
def test_two_stains_are_found(colours: tuple[tuple[float, ...], ...]) -> None:
    found = stains_of(stained(colours))
    assert found is not None
    np.testing.assert_allclose(found.densities, unit(colours), atol=0.12)
    np.testing.assert_allclose(found.most, 1.2, atol=0.15)


def test_tissue_gets_the_colours_of_another_image() -> None:
    own = Stains(unit(HE), np.ones(2, np.float32))
    other = Stains(unit(HDAB), np.full(2, 2, np.float32))
    image = np.exp(-(amounts(1) @ unit(HE)))
    twice = restained(image, own, other)
    np.testing.assert_allclose(density_of(twice), 2 * amounts(1) @ unit(HDAB), atol=0.01)
    np.testing.assert_allclose(restained(image, own, own), image, atol=1e-4)


def test_the_first_stain_pales_and_the_second_stays() -> None:
    own = Stains(unit(HE), np.ones(2, np.float32))
    image = np.exp(-(amounts(3) @ unit(HE)))
    kept = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    expected = amounts(3)
    expected[..., 0] *= kept
    pale = paled(image, kept, own)
    np.testing.assert_allclose(density_of(pale), expected @ unit(HE), atol=1e-4)


def test_marked_nuclei_become_brown_and_eosin_pales() -> None:
    own = Stains(unit(HE), np.ones(2, np.float32))
    found = np.zeros((64, 64, 2), np.float32)
    found[..., 1] = 0.6
    labels = np.zeros((64, 64), np.uint16)
    for n, (y, x) in enumerate(np.ndindex(4, 4), start=1):
        labels[16 * y + 3 : 16 * y + 13, 16 * x + 3 : 16 * x + 13] = n
    found[labels > 0] = (0.8, 0)
    image = np.exp(-(found @ unit(HE)))
    brown, blue, paler = [], [], 0
    for seed in range(10):
        changed = immunostained(image, labels, own, np.random.default_rng(seed))
        assert changed.shape == image.shape
        assert changed.min() >= 0
        assert changed.max() <= 1
        paler += changed[labels == 0].mean() > image[labels == 0].mean()
        for n in range(1, 17):
            red, _, blue_of = np.median(changed[labels == n], axis=0)
            (brown if red > blue_of + 0.1 else blue).append(n)
    # Haematoxylin absorbs more red than blue; DAB the other way round.
    assert len(brown) > 20
    assert len(blue) > 20
    # Sometimes what is around is brown.
    assert 2 <= paler <= 9


def test_an_image_of_one_colour_or_none_has_no_stains() -> None:
    rng = np.random.default_rng(0)
    assert stains_of(rng.integers(0, 255, (64, 64, 1), np.uint8)) is None
    assert stains_of(np.full((64, 64, 3), 250, np.uint8)) is None
    one = np.exp(-amounts(2)[..., :1] * unit(HE)[0])
    assert stains_of(np.asarray(np.rint(one * 255), np.uint8)) is None
