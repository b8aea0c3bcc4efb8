import numpy as np
import pytest

from nuclei.errors import InvalidData
from training.data.dataset import Sample
from training.data.yolo import class_names, parse_yolo, yolo_text


def test_the_same_pixels_come_back(samples: list[Sample]) -> None:
    for sample in samples:
        found = parse_yolo(yolo_text(sample.labels))
        assert np.array_equal(found.labels(sample.labels.shape), sample.labels)


def test_corners_are_parts_of_width_and_height() -> None:
    labels = np.zeros((10, 20), np.uint16)
    labels[5:10, 2:4] = 1
    number, *corners = yolo_text(labels).split()
    assert number == "0"
    points = np.array(corners, float).reshape(-1, 2)
    assert {tuple(point) for point in points} == {(0.1, 0.5), (0.2, 0.5), (0.2, 1.0), (0.1, 1.0)}


def test_parts_of_one_nucleus_stay_one() -> None:
    labels = np.zeros((40, 60), np.uint16)
    labels[3:9, 4:9] = labels[20:26, 30:37] = labels[30:33, 2:5] = 1
    text = yolo_text(labels)
    assert len(text.splitlines()) == 1
    assert np.array_equal(parse_yolo(text).labels((40, 60)), labels)


def test_a_hole_is_filled_unless_another_nucleus_is_in_it() -> None:
    labels = np.zeros((30, 30), np.uint16)
    labels[5:25, 5:25] = 2
    labels[10:20, 10:20] = 0
    labels[12:15, 12:15] = 1
    expected = labels.copy()
    expected[(labels == 0) & (np.hypot(*(np.mgrid[:30, :30] - 14.5)) < 9)] = 2
    found = parse_yolo(yolo_text(labels)).labels((30, 30))
    assert np.array_equal(found, expected)


def test_an_image_without_nuclei_has_no_lines() -> None:
    assert yolo_text(np.zeros((8, 8), np.uint16)) == ""
    assert not parse_yolo("").labels((8, 8)).any()


@pytest.mark.parametrize("line", ["0", "0 .1 .1 .2", "0 .1 .1 .2 .2 .3", "0 a b c d e f"])
def test_a_line_that_is_no_polygon_is_named(line: str) -> None:
    with pytest.raises(InvalidData, match="line 2 is no polygon"):
        parse_yolo(f"0 .1 .1 .5 .1 .5 .5\n{line}\n0 .5 .5 .9 .5 .9 .9")


def test_a_polygon_outside_of_the_image_is_named() -> None:
    with pytest.raises(InvalidData, match="line 1: a polygon reaches"):
        parse_yolo("0 .1 .1 1.5 .1 .5 .5").labels((40, 40))


def test_a_box_is_named_as_one() -> None:
    with pytest.raises(InvalidData, match="line 1 is a box; expected a polygon"):
        parse_yolo("0 .1 .1 .2 .2")


def test_blank_lines_are_skipped() -> None:
    line = "0 .1 .1 .5 .1 .5 .5"
    assert parse_yolo(f"\n{line}\n  \n{line}\n\n").categories() == {"0": 2}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("classes.txt", "nucleus\ncell\n"),
        ("data.yaml", "path: .\nnames: [nucleus, cell]\n"),
        ("data.yaml", "names:\n  0: nucleus\n  1: cell\n"),
    ],
)
def test_classes_have_names(file: str, text: str) -> None:
    names = class_names(file, text)
    assert names == {"0": "nucleus", "1": "cell"}
    found = parse_yolo("1 .1 .1 .5 .1 .5 .5\n2 .1 .1 .5 .1 .5 .5", names)
    assert found.categories() == {"cell": 1, "2": 1}


@pytest.mark.parametrize("text", ["names: 3", "names: 2021-99-99", "- a", "{", "[" * 100_000])
def test_a_file_that_names_no_classes_is_refused(text: str) -> None:
    with pytest.raises(InvalidData, match=r"names no classes|is no YAML"):
        class_names("data.yaml", text)
