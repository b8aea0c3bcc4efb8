import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclei.errors import InvalidOption
from nuclei.imaging.tiles import TILE_OVERHEAD_PX, TilePlan, cut, mirrored, place, plan_tiles

STRIDE = 32


@st.composite
def plans(draw: st.DrawFn) -> tuple[TilePlan, int, int]:
    """A plan, the largest side of its tiles and their halo."""
    halo = draw(st.integers(0, 40))
    shortest = 2 * halo // STRIDE + 1
    largest = STRIDE * draw(st.integers(shortest, 10))
    height, width = draw(st.integers(1, 700)), draw(st.integers(1, 700))
    plan = plan_tiles(height, width, largest, halo, STRIDE, square=draw(st.booleans()))
    return plan, largest, halo


@given(plans())
def test_tiles_put_together_are_the_frame(drawn: tuple[TilePlan, int, int]) -> None:
    plan, _, _ = drawn
    shape = plan.height, plan.width
    values = np.arange(plan.height * plan.width, dtype=np.uint32)
    frame = values.astype(np.uint16).reshape(*shape, 1)
    pixels, whole = mirrored(frame, plan), np.zeros((1, *shape), np.uint16)
    times = np.zeros((1, *shape), np.uint8)
    for tile in plan.tiles:
        part = cut(pixels, tile, plan)
        assert part.shape == (*plan.shape, 1)
        assert part.flags.c_contiguous
        place(part[None, :, :, 0], tile, whole)
        times[:, tile.rows, tile.columns] += 1
    np.testing.assert_array_equal(whole[0], frame[:, :, 0])
    assert times.min() == times.max() == 1


@given(plans())
def test_used_parts_keep_their_halo(drawn: tuple[TilePlan, int, int]) -> None:
    plan, _, halo = drawn
    for tile in plan.tiles:
        for start, used, length, side in (
            (tile.y, tile.rows, plan.height, plan.shape[0]),
            (tile.x, tile.columns, plan.width, plan.shape[1]),
        ):
            assert used.start == 0 or used.start - start >= halo
            assert used.stop == length or start + side - used.stop >= halo


@given(plans())
def test_tiles_are_multiples_of_the_stride_and_no_larger_than_allowed(
    drawn: tuple[TilePlan, int, int],
) -> None:
    plan, largest, _ = drawn
    assert not any(side % STRIDE for side in plan.shape)
    assert plan.tile_px <= largest**2


@given(plans())
def test_no_square_tiles_cost_less(drawn: tuple[TilePlan, int, int]) -> None:
    plan, largest, halo = drawn

    def count(length: int, side: int) -> int:
        return 1 if length <= side else -(-(length - 2 * halo) // (side - 2 * halo))

    chosen = len(plan.tiles) * (plan.tile_px + TILE_OVERHEAD_PX)
    for side in range(STRIDE, largest + 1, STRIDE):
        if side > 2 * halo or side >= max(plan.height, plan.width):
            tiles = count(plan.height, side) * count(plan.width, side)
            assert chosen <= tiles * (side**2 + TILE_OVERHEAD_PX)


def test_square_tiles_are_square() -> None:
    plan = plan_tiles(520, 696, 768, 32, STRIDE, square=True)
    assert plan.shape[0] == plan.shape[1]


def test_a_small_frame_is_one_tile_no_larger_than_needed() -> None:
    plan = plan_tiles(250, 300, 512, 64, STRIDE)
    assert len(plan.tiles) == 1
    assert plan.shape == (256, 320)


def test_a_long_frame_is_not_padded() -> None:
    plan = plan_tiles(64, 4096, 512, 32, STRIDE)
    assert plan.shape[0] == 64
    assert plan.tile_px * len(plan.tiles) < 1.1 * 64 * 4096


@pytest.mark.parametrize(
    ("height", "width", "of_frame"),
    [(512, 512, 1.0), (520, 696, 1.1), (1024, 1024, 1.15), (1024, 1360, 1.15), (2048, 2048, 1.2)],
)
def test_tiles_of_common_frames_overlap_little(height: int, width: int, of_frame: float) -> None:
    plan = plan_tiles(height, width, 768, 32, STRIDE)
    assert plan.tile_px * len(plan.tiles) <= of_frame * height * width


@pytest.mark.parametrize(("size", "halo"), [(100, 8), (128, 64), (64, 40)])
def test_impossible_tile_sizes_are_refused(size: int, halo: int) -> None:
    with pytest.raises(InvalidOption, match=f"tile size {size}"):
        plan_tiles(500, 500, size, halo, STRIDE)
