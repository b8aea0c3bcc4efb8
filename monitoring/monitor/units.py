"""Values as people read them: `0.0123` seconds are `12.3 ms`."""

import math
from dataclasses import dataclass

from monitoring.panels import Unit

NOTHING = "-"

_SUFFIX = "suffix: "
_FIRST_THOUSANDS = 10_000
# Sizes of the steps of a unit, the largest first, and from which value on each is used.
_TIME = (
    (172_800.0, 86_400.0, " d"),
    (7_200.0, 3_600.0, " h"),
    (120.0, 60.0, " min"),
    (1.0, 1.0, " s"),
    (1e-3, 1e-3, " ms"),
    (0.0, 1e-6, " µs"),
)
_BYTES = tuple(
    (1024.0**power if power else 0.0, 1024.0**power, f" {name}")
    for power, name in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB"), (0, "B"))
)
_COUNT = (
    (1e9, 1e9, " G"),
    (1e6, 1e6, " M"),
    (float(_FIRST_THOUSANDS), 1e3, " k"),
    (0.0, 1.0, ""),
)


@dataclass(frozen=True)
class Scale:
    """How the values of a chart are written.

    Attributes:
        size: what the written number 1 stands for.
        prefix, suffix: before and after the number.
    """

    size: float
    suffix: str
    prefix: str = ""

    def text(self, value: float, decimals: int | None = None) -> str:
        """A value.

        Args:
            value: in the unit.
            decimals: how many are written; None is three significant digits.
        """
        number = value / self.size
        digits = _significant(number) if decimals is None else f"{number:.{decimals}f}"
        return f"{self.prefix}{digits}{self.suffix}"


def scale_of(unit: Unit, largest: float) -> Scale:
    """The scale for values up to this one."""
    largest = abs(largest) if math.isfinite(largest) else 0.0
    match unit:
        case Unit.SECONDS:
            return _step(_TIME, largest)
        case Unit.MICROSECONDS:
            scale = _step(_TIME, largest / 1e6)
            return Scale(scale.size * 1e6, scale.suffix)
        case Unit.BYTES:
            return _step(_BYTES, largest)
        case Unit.BYTES_PER_SECOND:
            return _step(_BYTES, largest, "/s")
        case Unit.SHARE:
            return Scale(0.01, " %")
        case Unit.DAYS:
            return Scale(1, " d")
        case Unit.WATTS:
            return Scale(1, " W")
        case Unit.DOLLARS:
            return Scale(1, "", "$")
        case Unit.RATIO | Unit.VERSION | Unit.YES_NO:
            return Scale(1, "")
        case _ if unit.startswith(_SUFFIX):
            return _step(_COUNT, largest, f" {unit.removeprefix(_SUFFIX)}")
        case _:
            return _step(_COUNT, largest)


def shown(value: float, unit: Unit) -> str:
    """One value, written in its own scale."""
    if not math.isfinite(value):
        return NOTHING
    if unit is Unit.YES_NO and value in (0, 1):
        return "yes" if value else "no"
    return scale_of(unit, value).text(value)


def word(unit: Unit) -> str:
    """The unit, where it is a word of its own, such as `frames/s`; else empty."""
    return unit.removeprefix(_SUFFIX) if unit.startswith(_SUFFIX) else ""


def short(value: float, unit: Unit) -> str:
    """One value as `shown`, without the word that `word` gives."""
    return shown(value, unit).removesuffix(f" {word(unit)}")


def ticks(unit: Unit, lowest: float, highest: float, most: int) -> list[tuple[float, str]]:
    """Round values for an axis, with their texts.

    Args:
        unit: of the values.
        lowest: of the axis.
        highest: of the axis, above `lowest`.
        most: how many at most.
    """
    scale = scale_of(unit, max(abs(lowest), abs(highest)))
    if unit.startswith(_SUFFIX):  # long words, which the values have
        scale = _step(_COUNT, max(abs(lowest), abs(highest)))
    step = _round_step((highest - lowest) / scale.size / max(1, most - 1))
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(lowest / scale.size / step), math.floor(highest / scale.size / step)
    values = [number * step * scale.size for number in range(first, last + 1)]
    return [(value, scale.text(value, decimals)) for value in values]


def _step(steps: tuple[tuple[float, float, str], ...], largest: float, more: str = "") -> Scale:
    size, suffix = next(
        (size, suffix)
        for start, size, suffix in steps
        if (largest >= start if largest else size == 1)
    )
    return Scale(size, suffix + more)


def _significant(number: float) -> str:
    if number and abs(number) < 1e-3:
        return f"{number:.1e}"
    if abs(number) >= 999.5:
        return f"{number:,.0f}"
    return f"{number:.3g}"


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, ... (times a power of ten) that is not below."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * 0.999)
