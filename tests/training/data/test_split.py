from collections.abc import Callable
from dataclasses import replace

import numpy as np

from training.data.dataset import Sample
from training.data.split import near_copies, split_samples


def test_modalities_keep_their_share(samples: list[Sample]) -> None:
    training, validation = split_samples(samples, 0.25, seed=0)
    assert len(training) + len(validation) == len(samples)
    assert sum(sample.modality == "histology" for sample in validation) == 1
    assert sum(sample.modality == "fluorescence" for sample in validation) == 2


def test_the_order_of_the_images_does_not_matter(samples: list[Sample]) -> None:
    first = split_samples(samples, 0.25, seed=3)[1]
    second = split_samples(samples[::-1], 0.25, seed=3)[1]
    assert {sample.id for sample in first} == {sample.id for sample in second}
    other = split_samples(samples, 0.25, seed=4)[1]
    assert {sample.id for sample in first} != {sample.id for sample in other}


def test_shifted_and_noisy_copies_are_one_group(
    make_sample: Callable[[str, str, tuple[int, int], int], Sample],
) -> None:
    whole = make_sample("whole", "fluorescence", (140, 180), 3)
    first = replace(
        whole, id="first", pixels=whole.pixels[:100, :140], labels=whole.labels[:100, :140]
    )
    noise = np.random.default_rng(0).normal(0, 4, (100, 140, 1))
    shifted = (whole.pixels[20:120, 15:155] + noise).clip(0, 255).astype(np.uint8)
    copy = replace(whole, id="copy", pixels=shifted, labels=whole.labels[20:120, 15:155])
    others = [
        make_sample(f"other{seed}", "fluorescence", (100, 140), seed) for seed in range(20, 26)
    ]
    groups = near_copies([first, copy, *others])
    assert [sample.id for group in groups for sample in group if len(group) > 1] == [
        "first",
        "copy",
    ]
    for seed in range(6):
        held_out = {sample.id for sample in split_samples([first, copy, *others], 0.4, seed)[1]}
        assert ("first" in held_out) == ("copy" in held_out)


def test_what_was_learned_before_validates_nothing(samples: list[Sample]) -> None:
    names = [sample.id for sample in samples]
    learned = frozenset(names[: len(names) // 2])
    for seed in range(4):
        training, validation = split_samples(samples, 0.5, seed, learned)
        assert not learned & {sample.id for sample in validation}
        assert len(validation) == len(names[len(names) // 2 :]) // 2
        assert sorted(one.id for one in [*training, *validation]) == sorted(names)


def test_what_was_held_out_before_is_held_out_again(samples: list[Sample]) -> None:
    kept = frozenset(sample.id for sample in samples[:3])
    for seed in range(4):
        _, validation = split_samples(samples, 0.25, seed, kept=kept)
        assert kept < {sample.id for sample in validation}
    # What was held out may yet be a near-copy of what was learned.
    copy = replace(samples[0], id="copy")
    training, _ = split_samples([*samples, copy], 0.25, 0, frozenset({"copy"}), kept)
    assert {"copy", samples[0].id} <= {sample.id for sample in training}
