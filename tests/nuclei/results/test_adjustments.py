import math

import pytest

from nuclei.errors import InvalidOption
from nuclei.results.adjustments import AS_TUNED, Adjustments


def test_what_is_not_typed_stays_as_tuned() -> None:
    assert Adjustments.of_text() == AS_TUNED
    assert Adjustments.of_text("0.4", "50", "30.5") == Adjustments(0.4, 50, 30.5)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"threshold": 0.0}, "threshold is 0; expected a probability above 0 and below 1"),
        ({"threshold": 1.0}, "threshold is 1;"),
        ({"threshold": math.nan}, "threshold is nan;"),
        ({"min_area_px": -1}, "min_area is -1; expected a number of pixels from 0"),
        ({"min_area_px": 2**32 - 1}, "min_area is 4294967295;"),
        ({"diameter_px": 1.0}, "diameter is 1; expected what nuclei measure across"),
        ({"diameter_px": math.inf}, "diameter is inf;"),
    ],
)
def test_the_impossible_is_refused(given: dict[str, float], named: str) -> None:
    with pytest.raises(InvalidOption, match=named):
        Adjustments(**given)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("threshold", "low"),
        ("threshold", "nan"),
        ("min_area", "1.5"),
        ("min_area", "-3"),
        ("min_area", "²"),
        ("diameter", "30px"),
    ],
)
def test_text_that_is_no_number_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(InvalidOption, match=f"{name}='{text}' is no"):
        Adjustments.of_text(**{name: text})
