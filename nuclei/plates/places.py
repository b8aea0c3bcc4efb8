"""Where a frame lies in a file of many, and which of them a caller chooses."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple, get_args

from nuclei.errors import ChoiceRequired, InvalidOption
from nuclei.quoting import quoted

Projection = Literal["max", "sharpest"]
ALL = "all"
# Fields and wells that an error lists.
LISTED = 12


class Place(NamedTuple):
    """One frame of a source.

    Attributes:
        well: as "B03"; empty outside of plates.
        field: name of the position, empty where there is one and it has no name.
        t: number of the time point, None where there is one only.
        z: number of the slice, or how one was made of all; None where there is one only.
    """

    well: str = ""
    field: str = ""
    t: int | None = None
    z: int | Projection | None = None

    @property
    def name(self) -> str:
        """For the names of files: "B03_f1_t004_z02"."""
        parts = [self.well, f"f{_plain(self.field)}" if self.field else ""]
        parts.append("" if self.t is None else f"t{self.t:04d}")
        if self.z is not None:
            parts.append(f"z{self.z:03d}" if isinstance(self.z, int) else f"z{self.z}")
        return "_".join(part for part in parts if part)


@dataclass(frozen=True)
class Numbers:
    """Chosen numbers of time points or slices.

    Attributes:
        ranges: (first, last) of each, both included; empty for all.
    """

    ranges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of_text(cls, name: str, text: str) -> "Numbers":
        """Numbers as they are typed: `3`, `0-9,12`, `all`.

        Raises:
            InvalidOption: other text.
        """
        if text == ALL:
            return cls()
        found = [re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part) for part in text.split(",")]
        ranges = [(int(one[1]), int(one[2] or one[1])) for one in found if one is not None]
        if len(ranges) < len(found) or any(first > last for first, last in ranges):
            raise InvalidOption(
                f"{name} is {quoted(text)}; expected numbers from 0 such as 3 or 0-9,12, or {ALL}"
            )
        return cls(tuple(ranges))

    def of(self, name: str, size: int) -> list[int]:
        """The numbers, ascending, below a size.

        Raises:
            InvalidOption: one of them is not.
        """
        if not self.ranges:
            return list(range(size))
        chosen: set[int] = set()
        for first, last in self.ranges:
            if last >= size:
                raise InvalidOption(
                    f"{name} asks for {last}; there are {size}, counted from 0: 0 to {size - 1}"
                )
            chosen.update(range(first, last + 1))
        return sorted(chosen)


@dataclass(frozen=True)
class Choice:
    """What is taken of each source.

    Attributes:
        wells: names or patterns ("B03", "B*"); empty for all.
        fields: names or patterns of positions; empty for all.
        t: time points.
        z: slices, each a frame of its own, or how one is made of all of them; None where the
            caller has not said, for sources with one slice.
    """

    wells: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    t: Numbers = field(default_factory=Numbers)
    z: Numbers | Projection | None = None

    @classmethod
    def of_text(cls, wells: str, fields: str, t: str, z: str) -> "Choice":
        """A choice as it is typed; what is empty is not given.

        Raises:
            InvalidOption: text that is not what is expected.
        """
        projections = get_args(Projection)
        if z in projections:
            slices: Numbers | Projection | None = next(one for one in projections if one == z)
        elif z and z != ALL and not z[0].isdigit():
            raise InvalidOption(
                f"--z is {quoted(z)}; expected slices such as 3, 0-9 or {ALL}, each a frame of its "
                f"own, or one of all: {' or '.join(projections)}"
            )
        else:
            slices = Numbers.of_text("--z", z) if z else None
        return cls(
            tuple(well_named(name) for name in _names(wells)),
            _names(fields),
            Numbers.of_text("--t", t) if t else Numbers(),
            slices,
        )


@dataclass(frozen=True)
class Field:
    """One position of a source.

    Attributes:
        well: as "B03"; empty outside of plates.
        name: of the position; empty where there is one and it has no name.
        n_t, n_z: numbers of time points and slices.
    """

    well: str
    name: str
    n_t: int
    n_z: int


def places(fields: Sequence[Field], choice: Choice) -> list[tuple[int, Place]]:
    """The chosen frames of a source, with the number of the field of each, in its order.

    Raises:
        ChoiceRequired: several slices, and the caller has not said what is to be done.
        InvalidOption: there is no such well, field, time point or slice.
    """
    _check_known("--wells", choice.wells, [one.well for one in fields])
    _check_known("--fields", choice.fields, [one.name for one in fields])
    found = [
        (number, place)
        for number, one in enumerate(fields)
        if _matches(one.well, choice.wells) and _matches(one.name, choice.fields)
        for place in _of_field(one, choice)
    ]
    if not found:
        raise InvalidOption("none of the wells has one of the fields: choose others")
    return found


def well_named(name: str) -> str:
    """As wells are named here: "b3" is "B03"; a pattern as it is."""
    found = re.fullmatch(r"([A-Za-z]{1,2})(\d{1,2})", name)
    return f"{found[1].upper()}{int(found[2]):02d}" if found else name.upper()


def _of_field(one: Field, choice: Choice) -> list[Place]:
    if one.n_z > 1 and choice.z is None:
        raise ChoiceRequired(
            f"it holds {one.n_z} slices (z)",
            f"choose some with --z, such as 0-{one.n_z - 1}, or make one of all: max or sharpest",
        )
    times: list[int | None] = list(choice.t.of("--t", one.n_t))
    if one.n_t == 1:
        times = [None]
    slices: list[int | Projection | None] = [None]
    if one.n_z > 1:
        slices = list(choice.z.of("--z", one.n_z)) if isinstance(choice.z, Numbers) else [choice.z]
    elif isinstance(choice.z, Numbers):
        choice.z.of("--z", one.n_z)
    return [Place(one.well, one.name, t, z) for t in times for z in slices]


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip() and text != ALL)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_known(option: str, patterns: tuple[str, ...], names: Sequence[str]) -> None:
    known = list(dict.fromkeys(name for name in names if name))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            listed = ", ".join(known[:LISTED]) + ", ..." * (len(known) > LISTED)
            raise InvalidOption(
                f"{option} asks for {quoted(pattern)}; there "
                + (f"are {len(known)}: {listed}" if known else "are none: leave it out")
            )


def _plain(name: str) -> str:
    """The name of a field as a part of the name of a file."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")
