import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from nuclei.cli.app import app
from nuclei.errors import InvalidData, InvalidOption


def data(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)], env={"COLUMNS": "100"})


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images with two nuclei each; one nucleus has a hole of one pixel."""
    for part in ("images", "masks"):
        (tmp_path / "in" / part).mkdir(parents=True)
    for name in ("a", "b"):
        labels = np.zeros((40, 50), np.uint16)
        labels[5:15, 5:15], labels[20:32, 22:40] = 1, 2
        cv2.imwrite(str(tmp_path / "in" / "images" / f"{name}.png"), (labels > 0) * np.uint8(200))
        labels[25, 30] = 2 if name == "a" else 0
        cv2.imwrite(str(tmp_path / "in" / "masks" / f"{name}.png"), labels)
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("form", "changed"),
    [("labels", "0 images changed"), ("coco", "0 images"), ("yolo", "1 images changed, by 1 pix")],
)
def test_convert_counts_what_goes_in_and_comes_out(
    images: Path, tmp_path: Path, form: str, changed: str
) -> None:
    shown = data("convert", images, tmp_path / "out", "--to", form)
    assert shown.exit_code == 0, shown.output
    (row,) = [line for line in shown.stdout.splitlines() if "fluorescence" in line]
    assert [cell.strip() for cell in row.split("│")[2:-1]] == ["2", "2", "4", "4"]
    assert changed in shown.stdout


def test_conversion_to_coco_and_back_keeps_the_labels(images: Path, tmp_path: Path) -> None:
    data("convert", images, tmp_path / "coco", "--to", "coco")
    data("convert", tmp_path / "coco", tmp_path / "back", "--to", "labels")
    for name in ("a", "b"):
        before, after = (
            cv2.imread(str(folder / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
            for folder in (images, tmp_path / "back")
        )
        assert np.array_equal(before, after)


def test_what_cannot_be_used_is_named_before_anything_is_written(
    images: Path, tmp_path: Path
) -> None:
    data("convert", images, tmp_path / "coco", "--to", "coco")
    path = tmp_path / "coco" / "annotations.json"
    found = json.loads(path.read_text())
    found["annotations"].append({**found["annotations"][0], "image_id": 77})
    path.write_text(json.dumps(found))
    failed = data("convert", tmp_path / "coco", tmp_path / "back", "--to", "labels")
    assert isinstance(failed.exception, InvalidData)
    assert "annotation id 1 occurs 2 times" in str(failed.exception)
    assert "image 77, which is not listed" in str(failed.exception)
    assert not (tmp_path / "back").exists()


def test_images_are_added_and_those_that_cannot_be_are_named(images: Path, tmp_path: Path) -> None:
    pairs = [(images / "images" / f"{name}.png", images / "masks" / "a.png") for name in "ab"]
    cv2.imwrite(str(pairs[1][0]), np.uint8(90) + cv2.imread(str(pairs[1][0])))
    arguments = [
        *("--image", pairs[0][0], "--truth", pairs[0][1]),
        *("--image", pairs[0][0], "--truth", images / "manifest.txt"),
        *("--image", pairs[1][0], "--truth", pairs[1][1], "--by", "ada"),
    ]
    added = data("add", tmp_path / "set", *arguments)
    assert isinstance(added.exception, InvalidData)
    assert "1 of 3 images were not added" in str(added.exception)
    assert "manifest.txt is not read as truth" in str(added.exception)
    assert "a.png: added as a, 2 nuclei" in added.stdout
    assert "b.png: added as b, 2 nuclei" in added.stdout
    assert data("check", tmp_path / "set").exit_code == 0
    unpaired = data("add", tmp_path / "set", *arguments[:2])
    assert unpaired.exit_code != 0


def test_an_unknown_form_is_refused(images: Path, tmp_path: Path) -> None:
    failed = data("convert", images, tmp_path / "out", "--to", "voc")
    assert isinstance(failed.exception, InvalidOption)


def test_check_tells_licences(images: Path) -> None:
    (images / "manifest.csv").write_text("id,kind,licence\na,histology,MIT\nb,histology,\n")
    assert "MIT AND LicenseRef-data-not-stated" in " ".join(data("check", images).stdout.split())


def test_the_catalog_lists_licences_citations_and_places() -> None:
    shown = " ".join(data("catalog").stdout.split())
    assert "CC-BY-NC-SA-4.0" in shown
    assert "doi:10.1038/s41592-019-0612-7" in shown
    assert "bbbc.broadinstitute.org" in shown


def test_check_reads_coco(images: Path, tmp_path: Path) -> None:
    data("convert", images, tmp_path / "coco", "--to", "coco")
    plain, coco = data("check", images).stdout, data("check", tmp_path / "coco").stdout
    assert plain.splitlines()[-1] == coco.splitlines()[-1]
    assert plain.splitlines()[-1].startswith("fingerprint ")
