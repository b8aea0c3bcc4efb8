"""Corrected images become a data set."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from nuclei.errors import InvalidData, InvalidImage, InvalidInput, InvalidOption
from nuclei.formats import FORMATS
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.images import read_frame
from nuclei.postprocessing.measurement import measure
from nuclei.results.segmentation import Segmentation
from training.data.corrections import Added, CorrectedSet, Correction, Region
from training.data.dataset import read_dataset

Labels = NDArray[np.uint32]


@pytest.fixture
def labels() -> Labels:
    """Four nuclei in 60 x 80 pixels; the second has two parts, the third touches the fourth."""
    labels = np.zeros((60, 80), np.uint32)
    labels[4:20, 4:20] = 1
    labels[4:12, 40:50], labels[15:20, 40:46] = 2, 2
    labels[40:55, 50:60], labels[40:55, 60:76] = 3, 4
    return labels


@pytest.fixture
def image(labels: Labels, tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 500, labels.shape)
    tifffile.imwrite(tmp_path / "cells.tif", ((labels > 0) * 3000 + noise).astype(np.uint16))
    return tmp_path / "cells.tif"


def saved(form: str, labels: Labels, image: Path) -> Path:
    """A result of ours in one of its formats."""
    frame = read_frame(image)
    nuclei = measure(labels, frame.pixels, np.full(labels.shape, 200, np.uint8))
    result = Segmentation(labels, nuclei, None, "unet", "3")
    path = image.with_name(f"truth.{form}")
    path.write_bytes(b"".join(FORMATS[form].encode(result, frame, lambda: None)))
    return path


@pytest.fixture
def truth(labels: Labels, image: Path) -> Path:
    return saved("labels.tif", labels, image)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "my_images"


def add(folder: Path, image: Path, truth: Path, **options: object) -> Added:
    correction = Correction(image, truth, "ada")
    return CorrectedSet(folder).add(replace(correction, **options))


def provenance(folder: Path) -> list[dict[str, str]]:
    with (folder / "provenance.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "form", ["labels.tif", "labels.ome.tif", "labels.png", "geojson", "rois.zip", "coco.json"]
)
def test_every_form_that_is_downloaded_comes_back(
    form: str, labels: Labels, image: Path, folder: Path
) -> None:
    added = add(folder, image, saved(form, labels, image), modality="lab")
    assert (added.id, added.n_nuclei) == ("cells", 4)
    (sample,) = read_dataset(folder)
    assert sample.modality == "lab"
    np.testing.assert_array_equal(sample.pixels, read_frame(image).pixels)
    np.testing.assert_array_equal(sample.labels, labels)


def test_it_is_noted_where_truth_is_from(image: Path, truth: Path, folder: Path) -> None:
    add(folder, image, truth, corrected_from="unet:3")
    (row,) = provenance(folder)
    assert row["by"] == "ada"
    assert row["corrected_from"] == "unet:3"
    assert (row["image"], row["truth"]) == ("cells.tif", "truth.labels.tif")
    assert len(row["image_sha256"]) == len(row["truth_sha256"]) == 64
    assert row["added"].startswith("20")
    assert row["tool"].startswith("nuclei-serving ")


def test_an_image_is_added_once_whatever_it_is_called(
    image: Path, truth: Path, folder: Path
) -> None:
    add(folder, image, truth)
    copy = image.with_name("copy.png")
    cv2.imwrite(str(copy), tifffile.imread(image))
    with pytest.raises(InvalidData, match=r"is in .*my_images already, as cells; .*remove images"):
        add(folder, copy, truth)
    # Also one that was there before.
    (folder / "provenance.csv").unlink()
    with pytest.raises(InvalidData, match="already, as cells"):
        add(folder, copy, truth)
    (folder / "images" / "cells.png").unlink()
    (folder / "masks" / "cells.png").unlink()
    add(folder, image, truth)
    assert len(read_dataset(folder)) == 1


def test_another_image_of_the_same_name_gets_another(
    image: Path, truth: Path, folder: Path
) -> None:
    add(folder, image, truth)
    tifffile.imwrite(image, tifffile.imread(image) + np.uint16(1))
    assert add(folder, image, truth).id == "cells-2"
    assert [row["id"] for row in provenance(folder)] == ["cells", "cells-2"]
    assert [sample.id for sample in read_dataset(folder)] == ["cells", "cells-2"]


def test_only_the_region_in_which_all_is_outlined_is_added(
    labels: Labels, image: Path, truth: Path, folder: Path
) -> None:
    added = add(folder, image, truth, region=Region(x=0, y=0, width=48, height=32))
    assert added.n_nuclei == 2
    assert added.notes == ("2 nuclei outside the region 0,0,48,32 are left out",)
    (sample,) = read_dataset(folder)
    np.testing.assert_array_equal(sample.labels, labels[:32, :48])
    assert provenance(folder)[0]["region"] == "0,0,48,32"


def with_annotation(geojson: Path, *corners: tuple[int, int]) -> Path:
    document = json.loads(geojson.read_text())
    ring = [list(corner) for corner in (*corners, corners[0])]
    document["features"].append(
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "annotation"},
        }
    )
    geojson.write_text(json.dumps(document))
    return geojson


def test_qupaths_rectangle_around_its_detections_is_the_region(
    labels: Labels, image: Path, folder: Path
) -> None:
    geojson = saved("geojson", labels, image)
    with_annotation(geojson, (30, 0), (80, 0), (80, 60), (30, 60))
    added = add(folder, image, geojson)
    assert added.n_nuclei == 3
    (sample,) = read_dataset(folder)
    assert sample.labels.shape == (60, 50)


def test_where_nuclei_are_outlined_has_to_be_clear(
    labels: Labels, image: Path, folder: Path
) -> None:
    geojson = with_annotation(saved("geojson", labels, image), (0, 0), (80, 0), (40, 60))
    with pytest.raises(InvalidData, match=r"truth\.geojson.* not one rectangle: .*--region"):
        add(folder, image, geojson)
    assert not folder.exists()
    assert add(folder, image, geojson, region=Region(0, 0, 80, 60)).n_nuclei == 4


def test_what_may_not_have_been_looked_at_is_said(
    labels: Labels, image: Path, folder: Path
) -> None:
    few = np.where(labels < 3, labels, 0)
    (note,) = add(folder, image, saved("labels.tif", few, image)).notes
    assert "all nuclei lie in 4,4,46,16" in note
    other = image.with_name("empty.tif")
    tifffile.imwrite(other, tifffile.imread(image)[::-1])
    (note,) = add(folder, other, saved("labels.png", 0 * labels, image)).notes
    assert "no nucleus" in note


def test_a_channel_of_a_stack_is_chosen(image: Path, truth: Path, folder: Path) -> None:
    plane = tifffile.imread(image)
    stack = image.with_name("stack.ome.tif")
    tifffile.imwrite(stack, np.stack([plane // 2, plane]), metadata={"axes": "CYX"})
    with pytest.raises(InvalidImage, match="channel"):
        add(folder, stack, truth)
    add(folder, stack, truth, options=FrameOptions.of_text(channel="1"))
    (sample,) = read_dataset(folder)
    np.testing.assert_array_equal(sample.pixels[..., 0], plane)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("truth.csv", b"label\n1\n", "truth.csv is not read as truth; expected a label image"),
        ("truth.json", b'{"nuclei": []}', r"truth\.json: it holds no outlines"),
        ("truth.geojson", b"{", r"truth\.geojson: is no JSON"),
        ("truth.zip", b"PK", r"truth\.zip: .* no ROI of ImageJ"),
        ("truth.tif", b"", "truth.tif"),
        ("gone.zip", None, r"gone\.zip: cannot be read"),
    ],
)
def test_truth_that_is_none_is_named(
    name: str, content: bytes | None, reason: str, image: Path, folder: Path
) -> None:
    path = image.with_name(name)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInput, match=reason):
        add(folder, image, path)
    assert not folder.exists()


def test_truth_of_another_size_is_refused(labels: Labels, image: Path, folder: Path) -> None:
    tifffile.imwrite(image.with_name("other.tif"), labels[1:].astype(np.uint16))
    with pytest.raises(InvalidData, match=r"other\.tif is \(59, 80\) and its image is \(60, 80\)"):
        add(folder, image, image.with_name("other.tif"))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "annotations.json").write_text("{}")
    with pytest.raises(InvalidOption, match="nuclei data convert"):
        CorrectedSet(tmp_path)


@pytest.mark.parametrize("text", ["", "1,2,3", "0,0,-1,5", "a,b,c,d", "1,2,3,4,5"])
def test_regions_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InvalidOption, match="expected x,y,width,height"):
        Region.of_text(text)


def test_a_region_outside_the_image_is_refused(image: Path, truth: Path, folder: Path) -> None:
    with pytest.raises(InvalidData, match=r"cells\.tif: the region .* 80 x 60 pixels"):
        add(folder, image, truth, region=Region.of_text("40,0,50,20"))
