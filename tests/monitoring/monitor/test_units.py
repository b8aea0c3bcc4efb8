import math

import pytest

from monitoring.monitor.units import short, shown, ticks
from monitoring.panels import Unit


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, Unit.SECONDS, "12.3 ms"),
        (0.0, Unit.SECONDS, "0 s"),
        (90.0, Unit.SECONDS, "90 s"),
        (600.0, Unit.SECONDS, "10 min"),
        (250.0, Unit.MICROSECONDS, "250 µs"),
        (2_500_000.0, Unit.MICROSECONDS, "2.5 s"),
        (0.0, Unit.BYTES, "0 B"),
        (3 * 2.0**30, Unit.BYTES, "3 GiB"),
        (2048.0, Unit.BYTES_PER_SECOND, "2 KiB/s"),
        (0.001, Unit.SHARE, "0.1 %"),
        (999.7, Unit.COUNT, "1,000"),
        (12_345.0, Unit.COUNT, "12.3 k"),
        (1.5, Unit.FRAMES_PER_SECOND, "1.5 frames/s"),
        (1.5, Unit.DOLLARS, "$1.5"),
        (1.0, Unit.YES_NO, "yes"),
        (0.0, Unit.YES_NO, "no"),
        (4.0, Unit.VERSION, "4"),
        (-0.25, Unit.SHARE, "-25 %"),
        (math.nan, Unit.SECONDS, "-"),
        (math.inf, Unit.SECONDS, "-"),
    ],
)
def test_values_are_written_as_people_read_them(value: float, unit: Unit, text: str) -> None:
    assert shown(value, unit) == text


def test_a_column_of_values_leaves_words_out() -> None:
    assert short(12_345, Unit.FRAMES_PER_SECOND) == "12.3 k"
    assert short(0.0123, Unit.SECONDS) == "12.3 ms"


@pytest.mark.parametrize("unit", list(Unit))
def test_every_unit_has_a_text(unit: Unit) -> None:
    assert shown(3.0, unit).lstrip("$").startswith(("3", "3 "))


def test_an_axis_has_round_values_in_one_scale() -> None:
    assert [text for _, text in ticks(Unit.SECONDS, 0, 0.42, 5)] == [
        "0 ms",
        "200 ms",
        "400 ms",
    ]
    assert [value for value, _ in ticks(Unit.SHARE, 0, 0.004, 5)] == pytest.approx(
        [0, 0.001, 0.002, 0.003, 0.004]
    )
