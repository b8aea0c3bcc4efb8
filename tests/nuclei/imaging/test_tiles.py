import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclei.errors import InvalidOption
from nuclei.imaging.tiles import cut, mirrored, place, plan_tiles

sides = st.integers(1, 300)
halos = st.integers(0, 40)
sizes = st.integers(1, 8).map(lambda n: 32 * n)


@given(sides, sides, sizes, halos)
def test_tiles_put_together_are_the_frame(height: int, width: int, size: int, halo: int) -> None:
    size = max(size, 32 * (2 * halo // 32 + 1))
    frame = np.arange(height * width, dtype=np.uint16).reshape(height, width, 1)
    plan = plan_tiles(height, width, size, halo, 32)
    whole = np.zeros((1, height, width), np.uint16)
    for tile in plan.tiles:
        part = cut(mirrored(frame, plan), tile, plan)
        assert part.shape == (plan.size, plan.size, 1)
        assert part.flags.c_contiguous
        place(part[None, :, :, 0], tile, whole)
    np.testing.assert_array_equal(whole[0], frame[:, :, 0])


@given(sides, sides, sizes, halos)
def test_used_parts_keep_their_halo(height: int, width: int, size: int, halo: int) -> None:
    size = max(size, 32 * (2 * halo // 32 + 1))
    plan = plan_tiles(height, width, size, halo, 32)
    assert plan.size % 32 == 0
    assert plan.size <= size
    for tile in plan.tiles:
        for start, used, length in (
            (tile.y, tile.rows, height),
            (tile.x, tile.columns, width),
        ):
            assert used.start == 0 or used.start - start >= halo
            assert used.stop == length or start + plan.size - used.stop >= halo


def test_a_small_frame_gets_one_tile_no_larger_than_needed() -> None:
    plan = plan_tiles(250, 300, 512, 64, 32)
    assert len(plan.tiles) == 1
    assert plan.size == 320


def test_a_long_frame_is_not_padded_to_a_square() -> None:
    plan = plan_tiles(64, 4096, 512, 32, 32)
    assert plan.size**2 * len(plan.tiles) < 512 * 4096 / 1.5


@pytest.mark.parametrize(("size", "halo"), [(100, 8), (128, 64), (64, 40)])
def test_impossible_tile_sizes_are_refused(size: int, halo: int) -> None:
    with pytest.raises(InvalidOption, match=f"tile size {size}"):
        plan_tiles(500, 500, size, halo, 32)
