"""Which frames of a source are chosen, and what is said of choices that it does not have."""

import pytest

from nuclei.errors import ChoiceRequired, InvalidOption
from nuclei.plates.places import Choice, Field, Place, places, well_named

PLATE = [Field(well, name, 2, 3) for well in ("B02", "B03", "C03") for name in ("0", "1")]


def names(wells: str = "", fields: str = "", t: str = "", z: str = "max") -> list[str]:
    chosen = places(PLATE, Choice.of_text(wells, fields, t, z))
    return [place.name for _, place in chosen]


def test_frames_come_in_the_order_of_the_source() -> None:
    assert len(names()) == 12
    assert names("C*", "1") == ["C03_f1_t0000_zmax", "C03_f1_t0001_zmax"]
    assert names("b3,c03", "0", "1", "0-1") == [
        *("B03_f0_t0001_z000", "B03_f0_t0001_z001"),
        *("C03_f0_t0001_z000", "C03_f0_t0001_z001"),
    ]
    assert names("B02", "0", "0", "all") == [f"B02_f0_t0000_z00{z}" for z in range(3)]


def test_the_number_of_the_field_comes_with_a_frame() -> None:
    found = places(PLATE, Choice.of_text("C03", "", "0", "sharpest"))
    assert found == [
        (4, Place("C03", "0", 0, "sharpest")),
        (5, Place("C03", "1", 0, "sharpest")),
    ]


def test_one_time_point_and_one_slice_are_not_numbered() -> None:
    ((_, place),) = places([Field("", "", 1, 1)], Choice.of_text("", "", "0", "max"))
    assert place == Place()
    assert place.name == ""


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"wells": "D01"}, "--wells asks for 'D01'; there are 3: B02, B03, C03"),
        ({"fields": "2"}, "--fields asks for '2'; there are 2: 0, 1"),
        ({"t": "2"}, "--t asks for 2; there are 2, counted from 0"),
        ({"z": "0-3"}, "--z asks for 3; there are 3"),
    ],
)
def test_what_is_not_there_is_named(chosen: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        names(**chosen)


@pytest.mark.parametrize(
    "wrong", [{"t": "x"}, {"t": "3-1"}, {"z": "mean"}, {"z": "-1"}, {"t": "1,"}]
)
def test_text_that_is_no_choice(wrong: dict[str, str]) -> None:
    with pytest.raises(InvalidOption, match="expected"):
        names(**wrong)


def test_several_slices_have_to_be_chosen() -> None:
    with pytest.raises(ChoiceRequired, match=r"3 slices.*--z.*max or sharpest"):
        names(z="")


def test_names_of_wells() -> None:
    assert [well_named(name) for name in ("b3", "B03", "aa12", "B*")] == [
        "B03",
        "B03",
        "AA12",
        "B*",
    ]
