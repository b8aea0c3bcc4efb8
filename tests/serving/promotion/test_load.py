"""What a version may cost, on machines whose times vary; test_gates.py measures in Triton."""

import numpy as np
import pytest

from serving.promotion.load import ROUNDS, Load, load_gates

TITLE = "nuclei-unet 3"


def loads(ratio: float, champion_ms: float, seed: int) -> tuple[Load, Load]:
    """A version and a champion on a machine on which something else works now and then."""
    rng = np.random.default_rng(seed)
    # Seconds in which all is slower, and single answers that are.
    busy = rng.choice((1.0, 3.0), ROUNDS)
    single = rng.choice((1.0, 4.0), (2, ROUNDS), p=(0.85, 0.15))
    times = champion_ms * busy * single * rng.normal(1, 0.05, (2, ROUNDS))
    return Load(ratio * times[0], 500.0), Load(times[1], 400.0)


def passes(ratio: float, champion_ms: float = 100.0) -> int:
    """Of twenty runs, how many let a version pass that takes so many times the champion's time."""
    judged = (load_gates(*loads(ratio, champion_ms, seed), TITLE)[0] for seed in range(20))
    return sum(gate.passed for gate in judged)


def test_chance_refuses_no_version_and_lets_no_slow_one_pass() -> None:
    assert passes(1.0) == 20
    assert passes(1.4) == 20
    assert passes(2.2) == 0


def test_of_little_time_a_few_milliseconds_more_are_allowed() -> None:
    assert passes(2.0, champion_ms=3.0) == 20
    assert passes(9.0, champion_ms=3.0) == 0


def test_the_figures_are_said() -> None:
    champion = np.linspace(80.0, 120.0, ROUNDS)
    latency, memory = load_gates(Load(2 * champion, 500.0), Load(champion, 400.0), TITLE)
    assert latency.figure == pytest.approx(200.0)
    said = "a tile takes 200 ms, 2.00 times that of nuclei-unet 3 (95 %: 2.00 to 2.00)"
    assert latency.sentence == said
    assert memory.passed
    assert memory.sentence == "Triton takes 500 MB, 1.25 times that of nuclei-unet 3"


def test_without_a_champion_only_the_outermost_bounds_count() -> None:
    version, _ = loads(1.0, 100.0, 0)
    assert all(gate.passed for gate in load_gates(version, None, ""))
    slow = Load(np.full(ROUNDS, 11_000.0), 17_000.0)
    assert not any(gate.passed for gate in load_gates(slow, None, ""))
