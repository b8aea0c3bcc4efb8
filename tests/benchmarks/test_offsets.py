import numpy as np
import pytest


def test_pixels_vote_for_the_centres_of_their_nuclei() -> None:
    from offsets import OPTIONS, offset_maps, voted

    labels = np.zeros((60, 80), np.uint16)
    labels[5:25, 5:25] = 7
    # Touches the other, which its offsets tell apart.
    labels[5:25, 25:45] = 3
    labels[40:52, 60:75] = 9
    maps = offset_maps(labels)
    assert maps.dtype == np.float32
    assert maps[:, 30, 30].tolist() == [0, 0.5, 0.5]
    # The centre of the first lies at 14.5, 14.5: 9.5 of 128 pixels down and right of its corner.
    assert maps[:, 5, 5] == pytest.approx([1, 0.5 + 9.5 / 128, 0.5 + 9.5 / 128])
    found = voted(np.rint(maps * 255).astype(np.uint8), OPTIONS)
    assert found.max() == 3
    for number in (3, 7, 9):
        (own,) = np.unique(found[labels == number])
        assert own
        assert (found == own).sum() == (labels == number).sum()


def test_small_and_doubtful_nuclei_are_left_out() -> None:
    from offsets import OPTIONS, offset_maps, voted

    labels = np.zeros((60, 60), np.uint16)
    labels[5:8, 5:8], labels[20:40, 20:40] = 1, 2
    maps = np.rint(offset_maps(labels) * 255).astype(np.uint8)
    assert voted(maps, {**OPTIONS, "min_area_px": 8}).max() == 2
    assert voted(maps, OPTIONS).max() == 1
    maps[0, labels == 2] = 160
    assert voted(maps, {**OPTIONS, "min_score": 0.7}).max() == 0


def test_nothing_is_found_where_there_is_nothing() -> None:
    from offsets import OPTIONS, offset_maps, voted

    maps = offset_maps(np.zeros((8, 9), np.uint16))
    assert (maps[0] == 0).all()
    assert not voted(np.rint(maps * 255).astype(np.uint8), OPTIONS).any()


def test_a_network_learns_offsets_inside_of_nuclei_alone() -> None:
    import torch
    from offsets import Offsets, offset_maps

    recipe = Offsets(data=())
    labels = np.zeros((1, 16, 16), np.uint16)
    labels[0, 4:9, 4:9] = 1
    target = recipe.targets(labels[0])[None]
    np.testing.assert_array_equal(target[0], offset_maps(labels[0]))
    right = torch.logit(target.clamp(1e-6, 1 - 1e-6))
    elsewhere = right.clone()
    elsewhere[:, 1:, 12:, 12:] = 9
    wrong = right.clone()
    wrong[:, 1:, 4:9, 4:9] = 9

    def loss(answer: torch.Tensor) -> float:
        return float(recipe.loss_of(lambda _: answer, torch.zeros(1, 3, 16, 16), target))

    assert loss(elsewhere) == pytest.approx(loss(right))
    assert loss(wrong) > loss(right) + 5
