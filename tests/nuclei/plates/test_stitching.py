"""Regions put together: no nucleus is cut, lost or doubled, whatever the regions."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nuclei.plates.stitching import Region, Seen, regions, stitch

HALO = 24
Labels = NDArray[np.uint32]


@st.composite
def label_images(draw: st.DrawFn) -> Labels:
    """Discs and bars no wider than the halo, that may touch."""
    height, width = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    labels = np.zeros((height, width), np.uint32)
    rows, columns = np.ogrid[:height, :width]
    for number in range(1, draw(st.integers(0, 25)) + 1):
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        tall, wide = draw(st.integers(1, 11)), draw(st.integers(1, 11))
        inside = ((rows - y) / tall) ** 2 + ((columns - x) / wide) ** 2 <= 1
        labels[inside & (labels == 0)] = number
    return labels


def seen_of(labels: Labels, region: Region) -> Seen:
    """What a perfect segmenter sees: the nuclei of the window, numbered anew."""
    present, numbered = np.unique(labels[region.window], return_inverse=True)
    numbered = numbered.reshape(labels[region.window].shape).astype(np.uint32)
    numbers = present[present > 0]
    if len(numbers) == len(present):  # no background
        numbered += 1
    return Seen(np.ascontiguousarray(numbered), numbers.astype(np.float32))


@given(label_images(), st.integers(8, 200))
@settings(max_examples=60)
def test_what_was_cut_into_regions_comes_together_again(labels: Labels, side: int) -> None:
    height, width = labels.shape
    parts = regions(height, width, side, HALO)
    whole = np.zeros(labels.shape, np.uint32)
    scores, cut = stitch(parts, lambda region: seen_of(labels, region), whole)
    assert cut == 0
    # The same parts of the plane, each with its own score; only numbers may differ.
    expected = np.append(0, scores.astype(np.uint32))
    np.testing.assert_array_equal(expected[whole], labels)
    assert len(scores) == len(np.unique(labels[labels > 0]))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 80))
def test_cores_cover_a_plane_once(height: int, width: int, side: int) -> None:
    covered = np.zeros((height, width), int)
    for region in regions(height, width, side, HALO):
        covered[region.core] += 1
        rows, columns = region.core
        assert rows.stop - rows.start <= side
        assert columns.stop - columns.start <= side
    assert (covered == 1).all()


def test_regions_that_disagree_neither_lose_nor_double_a_nucleus() -> None:
    """On a border, one region sees a nucleus some pixels to the side of where another sees it."""
    parts = regions(64, 128, 64, HALO)
    for shift in range(-7, 8):
        whole = np.zeros((64, 128), np.uint32)

        def seen(region: Region, shift: int = shift) -> Seen:
            moved = 64 + (shift if region is parts[1] else 0)
            labels = np.zeros((64, 128), np.uint32)
            labels[20:40, moved - 8 : moved + 8] = 1
            return seen_of(labels, region)

        scores, _ = stitch(parts, seen, whole)
        assert len(scores) == 1, shift
        assert (whole > 0).sum() >= 0.5 * 20 * 16


def test_nuclei_wider_than_the_halo_are_counted_as_cut() -> None:
    labels = np.zeros((64, 256), np.uint32)
    labels[10:50, 20:240] = 1
    whole = np.zeros(labels.shape, np.uint32)
    _, cut = stitch(regions(64, 256, 64, HALO), lambda region: seen_of(labels, region), whole)
    assert cut > 0
