import numpy as np
import pytest

from nuclei.evaluation.statistics import mean_interval, paired_test


def test_an_interval_holds_the_true_mean_nineteen_times_of_twenty() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        low, high = mean_interval(rng.beta(4, 2, 50))
        held += low < 4 / 6 < high
    assert 88 <= held <= 100


def test_an_interval_narrows_with_the_root_of_the_number_of_images() -> None:
    values = np.random.default_rng(2).random(400)
    few, many = mean_interval(values[:25]), mean_interval(values)
    assert (few[1] - few[0]) / (many[1] - many[0]) == pytest.approx(4, rel=0.3)
    assert mean_interval(values) == many


@pytest.mark.parametrize("values", [[0.5], [0.3, 0.3, 0.3]])
def test_values_that_do_not_vary_have_a_point_for_an_interval(values: list[float]) -> None:
    assert mean_interval(np.array(values)) == (values[0], values[0])


def test_a_small_gain_on_every_image_is_found() -> None:
    rng = np.random.default_rng(3)
    first = rng.random(40)
    second = first - 0.02 - 0.01 * rng.random(40)
    test = paired_test(first, second)
    assert test.p < 0.001
    assert 0.02 < test.interval[0] < test.difference < test.interval[1] < 0.03
    assert (test.better, test.worse) == (40, 0)


def test_similar_models_rarely_differ() -> None:
    rng = np.random.default_rng(4)
    p = [paired_test(rng.random(30), rng.random(30)).p for _ in range(40)]
    assert sum(value < 0.05 for value in p) <= 6


def test_the_same_scores_do_not_differ() -> None:
    values = np.random.default_rng(5).random(20)
    test = paired_test(values, values)
    assert (test.difference, test.p, test.better, test.worse) == (0, 1, 0, 0)


def test_few_images_are_permuted_in_every_way() -> None:
    assert paired_test(np.array([1.0, 1.0]), np.array([0.0, 0.0])).p == pytest.approx(2 / 4)
    assert paired_test(np.array([1.0]), np.array([0.0])).p == pytest.approx(1)
