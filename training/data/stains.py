"""The stains of an image, estimated from it, and the same tissue in the stains of another.

Macenko et al. 2009, "A method for normalizing histology slides for quantitative analysis", section
2: the optical densities of two stains lie in a plane, between two directions.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

# Mean optical density from which a pixel is stained, and the percentile taken as the extreme.
STAINED_DENSITY = 0.15
EXTREME_PERCENT = 1.0
FEWEST_PIXELS = 200
# Directions closer than this are of one stain: a split of them means nothing.
LEAST_ANGLE = 0.15
SIDE_PX = 256
# Optical density of DAB in R, G, B (Ruifrok and Johnston 2001, table 1, of length 1).
DAB = np.array([0.27, 0.57, 0.78], np.float32) / np.linalg.norm([0.27, 0.57, 0.78])
# What is left of the second stain, which immunohistochemistry does not use; how much DAB is where
# haematoxylin was in a nucleus that an antibody marked, and what is left of haematoxylin there.
COUNTERSTAIN_LEFT = (0.0, 0.5)
DAB_FOR_HAEMATOXYLIN = (0.6, 2.0)
HAEMATOXYLIN_LEFT = (0.1, 0.8)
# How often an antibody marks what is around nuclei, too, and how much DAB is where the second stain
# was.
OUTSIDE = 0.4
DAB_OUTSIDE = (0.2, 1.5)
PATCH_PX = 32


@dataclass(frozen=True, eq=False)
class Stains:
    """The colours of two stains in an image.

    Attributes:
        densities: float32 [2, 3], optical density of each stain in R, G, B, of length 1; the first
            is the one with more red absorbed (haematoxylin beside eosin).
        most: float32 [2], the amount of each that 1 % of the stained pixels exceed.
    """

    densities: NDArray[np.float32]
    most: NDArray[np.float32]


def stains_of(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> Stains | None:
    """Estimate the stains of an image [H, W, C]; None where there are no two.

    Grey images have none, and neither has an image that is hardly stained or of one colour.
    """
    if pixels.shape[2] != 3:
        return None
    image = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    scale = SIDE_PX / max(image.shape[:2])
    if scale < 1:
        small = cv2.resize(image, (0, 0), fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        image = np.asarray(small, np.float32)
    density = density_of(image).reshape(-1, 3)
    stained = density[density.mean(axis=1) > STAINED_DENSITY]
    if len(stained) < FEWEST_PIXELS:
        return None
    _, vectors = np.linalg.eigh(np.cov(stained.T))
    plane = vectors[:, [2, 1]]
    # Densities are positive, and so is the first direction of their plane.
    plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)
    along = stained @ plane
    angles = np.arctan2(along[:, 1], along[:, 0])
    ends = np.percentile(angles, (EXTREME_PERCENT, 100 - EXTREME_PERCENT))
    if ends[1] - ends[0] < LEAST_ANGLE:
        return None
    both = np.stack([np.cos(ends), np.sin(ends)], axis=1) @ plane.T
    both = np.maximum(both, 0)
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    first = 0 if both[0, 0] >= both[1, 0] else 1
    densities = both[[first, 1 - first]].astype(np.float32)
    most = np.percentile(_amounts(stained, densities), 100 - EXTREME_PERCENT, axis=0)
    if (most <= 0).any():
        return None
    return Stains(densities, most.astype(np.float32))


def restained(image: NDArray[np.float32], own: Stains, other: Stains) -> NDArray[np.float32]:
    """The same tissue in the stains of another image.

    Args:
        image: float32 [H, W, 3] in [0, 1].
        own: its stains.
        other: those that it gets, each as strong as there.

    Returns:
        float32 [H, W, 3] in [0, 1]; what the two stains do not explain stays.
    """
    amounts, rest = _unmixed(image, own)
    return _seen((amounts * (other.most / own.most)) @ other.densities + rest, image)


def paled(
    image: NDArray[np.float32], kept: NDArray[np.float32], own: Stains
) -> NDArray[np.float32]:
    """The same tissue with less of the first stain.

    Args:
        image: float32 [H, W, 3] in [0, 1].
        kept: float32 [H, W], the share of the first stain that stays.
        own: its stains.

    Returns:
        float32 [H, W, 3] in [0, 1].
    """
    amounts, rest = _unmixed(image, own)
    amounts[:, 0] *= kept.ravel()
    return _seen(amounts @ own.densities + rest, image)


def immunostained(
    image: NDArray[np.float32],
    labels: NDArray[np.uint16],
    own: Stains,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Stained tissue as it may look in immunohistochemistry: haematoxylin, and DAB where marked.

    Some nuclei become brown, and the second stain pales; sometimes places around are brown.

    Args:
        image: float32 [H, W, 3] in [0, 1].
        labels: uint16 [H, W], its nuclei.
        own: its stains.
        rng: draws what is marked, and how strongly.

    Returns:
        float32 [H, W, 3] in [0, 1].
    """
    amounts, rest = _unmixed(image, own)
    amounts = np.maximum(amounts, 0)
    shape = int(labels.max(initial=0)) + 1
    marked = rng.random(shape) < rng.random()
    marked[0] = False
    for_haematoxylin = np.where(marked, rng.uniform(*DAB_FOR_HAEMATOXYLIN, shape), 0)
    left = np.where(marked, rng.uniform(*HAEMATOXYLIN_LEFT, shape), 1)
    haematoxylin, dab = (
        amounts[:, 0] * cv2.GaussianBlur(of.astype(np.float32)[labels], (0, 0), 1.0).ravel()
        for of in (left, for_haematoxylin)
    )
    if rng.random() < OUTSIDE:
        height, width = labels.shape
        cells = (max(2, height // PATCH_PX), max(2, width // PATCH_PX))
        patches = cv2.resize(rng.random(cells, np.float32), (width, height))
        places = np.where(labels == 0, np.clip(4 * patches - 2, 0, 1), 0).ravel()
        dab = dab + amounts[:, 1] * places * np.float32(rng.uniform(*DAB_OUTSIDE))
    second = amounts[:, 1] * np.float32(rng.uniform(*COUNTERSTAIN_LEFT))
    stained = np.stack([haematoxylin, second, dab], axis=1)
    return _seen(stained @ np.vstack([own.densities, DAB]) + rest, image)


def density_of(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Optical density of an image in [0, 1]."""
    return np.asarray(-np.log(np.maximum(image, np.float32(1e-3))), np.float32)


def _unmixed(
    image: NDArray[np.float32], own: Stains
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How much of each stain is in each pixel, [N, 2], and the density that neither explains."""
    density = density_of(image).reshape(-1, 3)
    amounts = _amounts(density, own.densities)
    return amounts, density - amounts @ own.densities


def _seen(density: NDArray[np.float32], like: NDArray[np.float32]) -> NDArray[np.float32]:
    """The image of optical densities [N, 3], of the shape of another."""
    return np.asarray(np.exp(-np.maximum(density, 0)).reshape(like.shape), np.float32)


def _amounts(density: NDArray[np.float32], stains: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much of each stain, float32 [N, 2], explains densities [N, 3] best."""
    return np.asarray(density @ np.linalg.pinv(stains), np.float32)
