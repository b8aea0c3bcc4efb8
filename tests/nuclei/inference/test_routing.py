"""Which version a model's name means, as it travels through Triton."""

import json

import pytest

from nuclei.errors import InvalidData
from nuclei.inference.routing import Routing


@pytest.mark.parametrize("routing", [Routing(3), Routing(4, challenger=5, shadow=0.1, canary=1.0)])
def test_a_routing_is_read_as_it_was_written(routing: Routing) -> None:
    assert Routing.from_json(routing.to_json()) == routing


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        json.dumps({"champion": 0}),
        json.dumps({"champion": "3"}),
        json.dumps({"champion": 3, "shadow": 1.5}),
        json.dumps({"champion": 3, "canary": -0.1}),
        json.dumps({"champion": 2**63}),
        json.dumps({"champion": 3, "another": 1}),
        '{"champion": 3, "shadow": NaN}',
        json.dumps({"champion": 3}) + " " * 10_000,
    ],
)
def test_what_is_no_routing_is_refused(text: str) -> None:
    with pytest.raises(InvalidData, match="routing of a model"):
        Routing.from_json(text)
