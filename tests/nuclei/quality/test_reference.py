import json
from dataclasses import asdict
from typing import Any

import pytest

from nuclei.errors import InvalidData
from nuclei.inference.contract import Contract
from nuclei.quality.reference import (
    FeatureReference,
    GroupReference,
    QualityReference,
    ScoreModel,
    Tree,
)

QUANTILES = tuple(float(number) for number in range(21))
FEATURE = FeatureReference(QUANTILES, (2.0, None), 0.3)
TREE = Tree((0, -1, -1), (0.5, 0.0, 0.0), (1, -1, -1), (2, -1, -1), (0.0, -0.1, 0.1))
SCORE = ScoreModel(("mean_probability",), ((0.0, 1.0),), 0.5, (TREE,), 0.1, 0.7, 3)
CONTRACT = Contract(
    "unet",
    quality=QualityReference(
        {"grey": GroupReference(50, 0.01, {"focus": FEATURE}, SCORE)}, 200, 2000, 0.01
    ),
)


def test_a_reference_survives_the_file_of_its_contract() -> None:
    assert Contract.from_json(CONTRACT.to_json()) == CONTRACT


def changed(path: str, value: Any) -> str:
    """The contract with another value at a path of keys and indices."""
    content = json.loads(CONTRACT.to_json())
    *parents, last = [int(key) if key.isdecimal() else key for key in path.split("/")]
    place = content["quality"]
    for key in parents:
        place = place[key]
    place[last] = value
    return json.dumps(content)


FOCUS = "groups/grey/features/focus"
TREES = "groups/grey/score/trees"
IMPOSSIBLE: dict[str, tuple[str, Any]] = {
    "an unknown group": ("groups/infrared", {}),
    "an unknown measure": ("groups/grey/features/beauty", {}),
    "too few quantiles": (f"{FOCUS}/quantiles", [1.0, 2.0]),
    "falling quantiles": (f"{FOCUS}/quantiles", list(QUANTILES[::-1])),
    "text for a quantile": (f"{FOCUS}/quantiles/3", "3"),
    "a quantile beyond all measures": (f"{FOCUS}/quantiles/20", 1e300),
    "not a number": (f"{FOCUS}/drift_threshold", float("nan")),
    "a limit that leaves the median out": (f"{FOCUS}/limits", [15.0, None]),
    "a limit on a side that is no fault": (f"{FOCUS}/limits", [None, 15.0]),
    "one limit": (f"{FOCUS}/limits", [2.0]),
    "no drift at all": (f"{FOCUS}/drift_threshold", 0),
    "a short window": ("window", 1),
    "a long window": ("window", 10**9),
    "certain alarms": ("false_alarms_per_day", 2.0),
    "no frames": ("groups/grey/frames", 0),
    "a rate above 1": ("groups/grey/false_alarm_rate", 1.5),
    "an error above 1": ("groups/grey/score/error", 2.0),
    "a domain too many": ("groups/grey/score/domain", [[0.0, 1.0], [0.0, 1.0]]),
    "no features": ("groups/grey/score/features", []),
    "too many trees": (TREES, [asdict(TREE)] * 600),
    "an empty tree": (f"{TREES}/0", {column: [] for column in vars(TREE)}),
    "a tree of two lengths": (f"{TREES}/0/threshold", [0.5]),
    "a tree that goes round": (f"{TREES}/0/left", [0, -1, -1]),
    "a child that is not there": (f"{TREES}/0/right", [7, -1, -1]),
    "a huge index": (f"{TREES}/0/right", [10**9, -1, -1]),
    "a feature that is not there": (f"{TREES}/0/feature", [1, -1, -1]),
    "a node of a fraction": (f"{TREES}/0/feature", [0.5, -1, -1]),
    "a field that is not known": ("groups/grey/colour", "red"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_an_impossible_reference_is_refused_in_a_short_sentence(case: str) -> None:
    with pytest.raises(InvalidData, match=r"contract\.json cannot be used: quality") as raised:
        Contract.from_json(changed(*IMPOSSIBLE[case]))
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 500
