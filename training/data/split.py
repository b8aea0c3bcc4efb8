"""Split images for validation, with copies of one field of view on the same side."""

from collections import defaultdict
from collections.abc import Sequence, Set

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from nuclei.console import tracked
from training.data.dataset import Sample

THUMBNAIL_PX = 80
COPY_CORRELATION = 0.9
LEAST_OVERLAP = 0.25
# Above the rounding errors of an image without contrast.
BLANK_ENERGY = 1e-3


def split_samples(
    samples: Sequence[Sample],
    validation_fraction: float,
    seed: int,
    learned: Set[str] = frozenset(),
    kept: Set[str] = frozenset(),
) -> tuple[list[Sample], list[Sample]]:
    """Split into (training, validation), each source, modality and size in the same proportion.

    Near-copies (`near_copies`) are kept together.

    Args:
        samples: images with labels.
        validation_fraction: share of the images that is held out of every modality of every source,
            in (0, 1).
        seed: for the random choice; the order of `samples` does not matter.
        learned: names of images that can validate nothing, because the network has learned them.
        kept: names of images that are held out again, unless they are near-copies of learned ones.
            The fraction is of all others.
    """
    samples = sorted(samples, key=lambda sample: sample.id)
    rng = np.random.default_rng(seed)
    by_stratum: dict[tuple[str, str, tuple[int, ...]], list[list[Sample]]] = defaultdict(list)
    held_out: set[str] = set()
    for group in near_copies(samples):
        first, names = group[0], {sample.id for sample in group}
        if names & learned:
            continue
        if names & kept:
            held_out |= names
        else:
            by_stratum[first.source, first.modality, first.labels.shape].append(group)
    by_kind: dict[tuple[str, str], list[list[list[Sample]]]] = defaultdict(list)
    for (source, modality, _), groups in sorted(by_stratum.items()):
        by_kind[source, modality].append(groups)
    for strata in by_kind.values():
        due = 0.0
        for groups in strata:
            due += validation_fraction * sum(map(len, groups))
            for index in rng.permutation(len(groups)):
                if len(groups[index]) <= due + 0.5:
                    held_out.update(sample.id for sample in groups[index])
                    due -= len(groups[index])
    training = [sample for sample in samples if sample.id not in held_out]
    return training, [sample for sample in samples if sample.id in held_out]


def near_copies(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Group images that show the same field: copies, shifted crops, neighbouring focal planes.

    Two images of one size are near-copies when their thumbnails correlate above 0.9 at some shift
    that leaves a quarter of them (and of their contrast) overlapping.
    """
    parent = list(range(len(samples)))

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        by_shape[sample.labels.shape].append(index)
    for members in by_shape.values():
        best = _best_correlations(np.stack([_thumbnail(samples[index]) for index in members]))
        for first, second in np.argwhere(np.triu(best, 1) > COPY_CORRELATION):
            parent[root(members[first])] = root(members[second])
    groups: dict[int, list[Sample]] = defaultdict(list)
    for index, sample in enumerate(samples):
        groups[root(index)].append(sample)
    return list(groups.values())


def _thumbnail(sample: Sample) -> NDArray[np.float32]:
    """Local contrast of an image, shrunk to `THUMBNAIL_PX` on its longer side."""
    grey = np.sqrt(sample.pixels.astype(np.float32).mean(axis=2))
    scale = THUMBNAIL_PX / max(grey.shape)
    size = [max(8, round(side * scale)) for side in grey.shape[::-1]]
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    contrast = small - cv2.GaussianBlur(small, (0, 0), THUMBNAIL_PX / 12)
    return np.asarray(contrast - contrast.mean(), np.float32)


def _best_correlations(thumbnails: NDArray[np.float32]) -> NDArray[np.float64]:
    """Highest correlation of each pair over all shifts; float64 [N, N]."""
    n, height, width = thumbnails.shape
    shape = (2 * height, 2 * width)
    spectra = fft.rfft2(thumbnails, shape)
    energies = fft.rfft2(thumbnails.astype(np.float64) ** 2, shape)
    window = fft.rfft2(np.ones((height, width)), shape)
    overlap = fft.irfft2(window.conj() * window, shape) >= LEAST_OVERLAP * height * width
    # 1 / contrast of the overlapping part of each; 0 where the overlap is too small.
    of_first = _one_over_contrast(fft.irfft2(energies.conj() * window, shape), overlap)
    of_second = _one_over_contrast(fft.irfft2(window.conj() * energies, shape), overlap)
    best = np.zeros((n, n))
    for first in tracked(range(n - 1), "Looking for near-copies"):
        rest = slice(first + 1, n)
        product = fft.irfft2(spectra[first].conj() * spectra[rest], shape)
        product *= of_first[first]
        product *= of_second[rest]
        best[first, rest] = product.max(axis=(1, 2))
    return best


def _one_over_contrast(
    energy: NDArray[np.float64], overlap: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """1 / sqrt of the energies [N, H, W] at each shift ([:, 0, 0] is no shift), or 0."""
    enough = overlap & (energy >= LEAST_OVERLAP * energy[:, :1, :1])
    norm = np.sqrt(np.maximum(energy, BLANK_ENERGY))
    return np.where(enough, 1 / norm, 0).astype(np.float32)
