import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from nuclei.errors import InvalidData, MissingPrerequisite
from nuclei.formats.geojson import feature_collection
from nuclei.imaging.images import Frame
from nuclei.postprocessing.measurement import measure
from nuclei.results.segmentation import Segmentation
from training.data.coco import coco_json
from training.data.conversion import write_dataset
from training.data.dataset import (
    Sample,
    fingerprint,
    guess_modality,
    read_dataset,
    read_datasets,
    summary,
)
from training.data.yolo import yolo_text


def write_images_and_masks(folder: Path, samples: list[Sample]) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    rows = ["id,kind"]
    for sample in samples:
        cv2.imwrite(str(folder / "images" / f"{sample.id}.png"), sample.pixels[..., ::-1])
        cv2.imwrite(str(folder / "masks" / f"{sample.id}.png"), sample.labels)
        rows.append(f"{sample.id},{sample.modality}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")


def write_one_mask_per_nucleus(folder: Path, samples: list[Sample]) -> None:
    for sample in samples:
        home = folder / "stage1_train" / sample.id
        (home / "images").mkdir(parents=True)
        (home / "masks").mkdir()
        cv2.imwrite(str(home / "images" / f"{sample.id}.png"), sample.pixels[..., ::-1])
        for number in range(1, int(sample.labels.max()) + 1):
            mask = ((sample.labels == number) * 255).astype(np.uint8)
            cv2.imwrite(str(home / "masks" / f"{number:03d}.png"), mask)


def write_side_by_side(folder: Path, samples: list[Sample]) -> None:
    folder.mkdir(parents=True)
    for sample in samples:
        tifffile.imwrite(folder / f"{sample.id}.tif", sample.pixels.squeeze())
        tifffile.imwrite(folder / f"{sample.id}_labels.tif", sample.labels.astype(np.int32))


def write_coco(folder: Path, samples: list[Sample]) -> None:
    write_images_and_masks(folder, samples)
    for mask in (folder / "masks").iterdir():
        mask.unlink()
    names = [f"images/{sample.id}.png" for sample in samples]
    labels = {name: sample.labels for name, sample in zip(names, samples, strict=True)}
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances.json").write_text(coco_json(labels))


def write_yolo(folder: Path, samples: list[Sample]) -> None:
    for part in ("images", "labels"):
        (folder / part / "train").mkdir(parents=True)
    for sample in samples:
        image = folder / "images" / "train" / f"{sample.id}.png"
        cv2.imwrite(str(image), sample.pixels[..., ::-1])
        (folder / "labels" / "train" / f"{sample.id}.txt").write_text(yolo_text(sample.labels))


FORMS = [
    *(write_images_and_masks, write_one_mask_per_nucleus, write_side_by_side),
    *(write_coco, write_yolo),
]
Write = Callable[[Path, list[Sample]], None]


@pytest.mark.parametrize("write", FORMS)
def test_every_form_gives_the_same_samples(
    write: Write, samples: list[Sample], tmp_path: Path
) -> None:
    write(tmp_path / "data", samples)
    found = read_dataset(tmp_path / "data")
    assert fingerprint(found) == fingerprint(samples)
    assert {sample.id for sample in found} == {sample.id for sample in samples}
    assert {sample.modality for sample in found} == {"fluorescence", "histology"}


@pytest.mark.parametrize("write", FORMS)
def test_a_zip_reads_as_its_folder(write: Write, samples: list[Sample], tmp_path: Path) -> None:
    write(tmp_path / "data", samples)
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for path in sorted((tmp_path / "data").rglob("*")):
            out.write(path, path.relative_to(tmp_path / "data"))
        out.writestr("__MACOSX/images/._junk.png", b"junk")
    assert fingerprint(read_dataset(archive)) == fingerprint(samples)


def test_summary_counts_images_and_nuclei(samples: list[Sample]) -> None:
    counted = summary(samples)
    assert counted["histology"][0] == 4
    assert sum(nuclei for _, nuclei in counted.values()) == sum(
        int(sample.labels.max()) for sample in samples
    )


def test_label_values_become_consecutive(samples: list[Sample], tmp_path: Path) -> None:
    write_images_and_masks(tmp_path / "data", samples[:1])
    sparse = samples[0].labels * 37
    cv2.imwrite(str(tmp_path / "data" / "masks" / f"{samples[0].id}.png"), sparse)
    assert np.array_equal(read_dataset(tmp_path / "data")[0].labels, samples[0].labels)


def spoil_missing_mask(data: Path, name: str) -> None:
    (data / "masks" / f"{name}.png").unlink()


def spoil_missing_image(data: Path, name: str) -> None:
    (data / "images" / f"{name}.png").unlink()
    (data / "manifest.csv").unlink()


def spoil_other_size(data: Path, name: str) -> None:
    cv2.imwrite(str(data / "masks" / f"{name}.png"), np.ones((10, 12), np.uint16))


def spoil_float_labels(data: Path, name: str) -> None:
    (data / "masks" / f"{name}.png").unlink()
    tifffile.imwrite(data / "masks" / f"{name}.tif", np.full((96, 128), 0.5, np.float32))


def spoil_binary_mask(data: Path, name: str) -> None:
    mask = np.zeros((96, 128), np.uint8)
    mask[10:20, 10:20] = mask[40:60, 40:60] = 255
    cv2.imwrite(str(data / "masks" / f"{name}.png"), mask)


def spoil_truncated_image(data: Path, name: str) -> None:
    path = data / "images" / f"{name}.png"
    path.write_bytes(path.read_bytes()[:200])


def spoil_manifest(data: Path, name: str) -> None:
    for part in ("images", "masks"):
        (data / part / f"{name}.png").unlink()


SPOILED = [
    (spoil_missing_mask, "has no partner"),
    (spoil_missing_image, r"masks/.* has no partner"),
    (spoil_other_size, r"\(10, 12\)"),
    (spoil_float_labels, "float32"),
    (spoil_binary_mask, "as a binary mask"),
    (spoil_truncated_image, "truncated"),
    (spoil_manifest, "no image of id"),
]


@pytest.mark.parametrize(("spoil", "reason"), SPOILED)
def test_a_wrong_pair_is_named(
    spoil: Callable[[Path, str], None], reason: str, samples: list[Sample], tmp_path: Path
) -> None:
    write_images_and_masks(tmp_path / "data", samples)
    spoil(tmp_path / "data", samples[2].id)
    with pytest.raises(InvalidData, match=reason) as caught:
        read_dataset(tmp_path / "data")
    assert samples[2].id in str(caught.value)
    assert samples[3].id not in str(caught.value)


def spoil_listed_image(data: Path, name: str) -> None:
    (data / "images" / f"{name}.png").unlink()


def spoil_listing(data: Path, name: str) -> None:
    cv2.imwrite(str(data / "images" / "unlisted.png"), np.zeros((9, 9), np.uint8))


def spoil_second_image(data: Path, name: str) -> None:
    (data / "copy" / "images").mkdir(parents=True)
    image = (data / "images" / f"{name}.png").read_bytes()
    (data / "copy" / "images" / f"{name}.png").write_bytes(image)


def spoil_listed_size(data: Path, name: str) -> None:
    cv2.imwrite(str(data / "images" / f"{name}.png"), np.zeros((10, 12), np.uint8))


def spoil_coco_masks(data: Path, name: str) -> None:
    path = data / "annotations" / "instances.json"
    found = json.loads(path.read_text())
    image = next(entry["id"] for entry in found["images"] if name in entry["file_name"])
    chosen = next(entry for entry in found["annotations"] if entry["image_id"] == image)
    chosen["segmentation"] = [[500, 2, 508, 2, 508, 9]]
    path.write_text(json.dumps(found))


def spoil_json(data: Path, name: str) -> None:
    path = data / "annotations" / "instances.json"
    path.write_text(path.read_text()[:-9])


SPOILED_COCO = [
    (spoil_listed_image, "fluorescence-2: .*instances.json lists .* no such image"),
    (spoil_listing, "unlisted: images/unlisted.png has no partner"),
    (spoil_second_image, "fluorescence-2: copy/images/fluorescence-2.png has no partner"),
    (spoil_listed_size, r"fluorescence-2: .*\(96, 128\), and it is \(10, 12\)"),
    (spoil_coco_masks, r"fluorescence-2: .*annotation \d+: a polygon reaches from x 500 to 508"),
    (spoil_json, "instances.json: is no JSON"),
]


@pytest.mark.parametrize(("spoil", "reason"), SPOILED_COCO)
def test_what_does_not_fit_a_coco_file_is_named(
    spoil: Callable[[Path, str], None], reason: str, samples: list[Sample], tmp_path: Path
) -> None:
    write_coco(tmp_path / "data", samples)
    spoil(tmp_path / "data", samples[2].id)
    with pytest.raises(InvalidData, match=reason) as caught:
        read_dataset(tmp_path / "data")
    assert samples[3].id not in str(caught.value)


def test_a_yolo_file_without_its_image_is_named(samples: list[Sample], tmp_path: Path) -> None:
    write_yolo(tmp_path, samples)
    (tmp_path / "images" / "train" / f"{samples[2].id}.png").unlink()
    with pytest.raises(InvalidData, match=rf"labels/train/{samples[2].id}.txt has no partner"):
        read_dataset(tmp_path)


def test_what_is_missing_for_coco_is_reported_once(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_coco(tmp_path, samples)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(MissingPrerequisite, match="make train-env"):
        read_dataset(tmp_path)


def test_other_json_beside_the_images_does_no_harm(samples: list[Sample], tmp_path: Path) -> None:
    write_images_and_masks(tmp_path / "data", samples)
    (tmp_path / "data" / "settings.json").write_text('{"gain": 2}')
    assert fingerprint(read_dataset(tmp_path / "data")) == fingerprint(samples)


def test_overlapping_masks_are_named(samples: list[Sample], tmp_path: Path) -> None:
    write_one_mask_per_nucleus(tmp_path, samples[:2])
    masks = tmp_path / "stage1_train" / samples[0].id / "masks"
    cv2.imwrite(str(masks / "999.png"), np.full((96, 128), 255, np.uint8))
    with pytest.raises(InvalidData, match=r"999\.png overlaps"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"no zip"])
def test_what_is_no_data_set_says_what_is_expected(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidData, match=r"data\.zip"):
        read_dataset(path)


def test_a_folder_without_masks_is_refused_with_the_forms(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"images/<name>\.png"):
        read_dataset(tmp_path)


def test_two_images_of_one_name_are_refused(samples: list[Sample], tmp_path: Path) -> None:
    write_images_and_masks(tmp_path, samples[:2])
    tifffile.imwrite(tmp_path / "images" / f"{samples[0].id}.tif", samples[0].pixels)
    with pytest.raises(InvalidData, match=rf"{samples[0].id}: two images are called so"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("pixels", "modality"),
    [
        (np.full((9, 9, 1), 20, np.uint8), "brightfield"),
        (np.pad(np.full((3, 3, 1), 200, np.uint8), ((9, 9), (9, 9), (0, 0))), "fluorescence"),
        (np.tile(np.array([[[200, 80, 190]]], np.uint8), (9, 9, 1)), "histology"),
    ],
)
def test_modality_is_guessed_from_the_look(pixels: np.ndarray, modality: str) -> None:
    assert guess_modality(pixels) == modality


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def squares(*values: int) -> np.ndarray:
    """A label image [40, 60] with a square of each value."""
    labels = np.zeros((40, 60), np.uint16)
    for index, value in enumerate(values):
        labels[4:12, 4 + 12 * index : 12 + 12 * index] = value
    return labels


def write_pair(image: Path, labels: Path) -> None:
    """An image, and its label image with two nuclei."""
    for path in (image, labels):
        path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(image, (squares(1, 1) * 150 + 20).astype(np.uint8))
    tifffile.imwrite(labels, squares(1, 2))


PLACES = [
    ("Images/a.tif", "Masks/a.tif"),
    ("images/a.TIF", "Labels/a.TIFF"),
    ("images/a.tif", "masks/a_mask.tif"),
    ("train/images/a.tif", "train/masks/a.tif"),
    ("images/train/a.tif", "masks/train/a.tif"),
    ("a.ome.tif", "a_labels.ome.tif"),
    ("images/a.ome.tif", "masks/a.tif"),
    ("a.tif", "a_cp_masks.tif"),
    ("a.tif", "a.labels.tif"),
    ("a.tif", "masks/a.tif"),
]


@pytest.mark.parametrize(("image", "labels"), PLACES)
def test_an_image_finds_its_label_image(image: str, labels: str, tmp_path: Path) -> None:
    write_pair(tmp_path / image, tmp_path / labels)
    (found,) = read_dataset(tmp_path)
    assert found.id == "a"
    assert np.array_equal(found.labels, squares(1, 2))


def test_the_same_names_in_several_folders_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("train", "val"):
        write_pair(tmp_path / part / "images" / "a.tif", tmp_path / part / "masks" / "a.tif")
        (tmp_path / part / "manifest.csv").write_text(f"id,kind\na,{part}ing\n")
    found = {sample.id: sample.modality for sample in read_dataset(tmp_path)}
    assert found == {"train_a": "training", "val_a": "valing"}
    text = said(capsys)
    assert "part of their names here: train_a and 1 more" in text
    assert "train and val are read as one data set" in text


def test_a_folder_that_segment_wrote_into_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pair(tmp_path / "a.tif", tmp_path / "a.labels.tif")
    cv2.imwrite(str(tmp_path / "a.overlay.png"), np.zeros((40, 60, 3), np.uint8))
    (tmp_path / "a.csv").write_text("label\n")
    (tmp_path / "a.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    (sample,) = read_dataset(tmp_path)
    assert sample.labels.max() == 2
    text = said(capsys)
    assert "left out, because they are not read: 1 overlays" in text
    assert "images that have label images are left out: a.geojson" in text


def test_files_of_microscopes_that_are_not_read_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pair(tmp_path / "a.tif", tmp_path / "a_labels.tif")
    (tmp_path / "b.zarr").mkdir()
    for name in ("b.czi", "c.CZI", "d.nd2", "b.zarr/0", "b.zarr/1", "notes.txt"):
        (tmp_path / name).write_bytes(b"?")
    assert len(read_dataset(tmp_path)) == 1
    assert "left out, because they are not read: 2 .czi, 1 .nd2, 1 .zarr (" in said(capsys)


def test_two_label_images_of_one_image_must_agree(tmp_path: Path) -> None:
    write_pair(tmp_path / "images" / "a.tif", tmp_path / "masks" / "a.tif")
    cv2.imwrite(str(tmp_path / "masks" / "a.png"), squares(1, 2))
    assert len(read_dataset(tmp_path)) == 1
    cv2.imwrite(str(tmp_path / "masks" / "a.png"), squares(1, 2, 3))
    with pytest.raises(InvalidData, match=r"a: masks/a.png and masks/a.tif differ; remove one"):
        read_dataset(tmp_path)


def test_masks_of_single_nuclei_may_have_1_bit(tmp_path: Path) -> None:
    home = tmp_path / "a"
    (home / "images").mkdir(parents=True)
    (home / "masks").mkdir()
    cv2.imwrite(str(home / "images" / "a.png"), (squares(1, 2) > 0).astype(np.uint8) * 200)
    for number in (1, 2):
        mask = squares(1, 2) == number
        tifffile.imwrite(home / "masks" / f"{number}.tif", mask, photometric="minisblack")
    (sample,) = read_dataset(tmp_path)
    assert np.array_equal(sample.labels, squares(1, 2))


def test_an_image_of_several_channels_or_planes_is_told_what_to_do(tmp_path: Path) -> None:
    for name in ("colours", "planes"):
        write_pair(tmp_path / f"{name}.tif", tmp_path / f"{name}_labels.tif")
    colours = np.random.default_rng(0).integers(0, 20, (40, 60, 3), np.uint8)
    for channel in range(3):
        colours[5:15, 20 * channel : 20 * channel + 8, channel] += 200
    tifffile.imwrite(tmp_path / "colours.tif", colours, photometric="rgb")
    stack = np.stack([squares(1, 2)] * 2)
    tifffile.imwrite(tmp_path / "planes.tif", stack, photometric="minisblack")
    with pytest.raises(InvalidData, match="2 problems") as caught:
        read_dataset(tmp_path)
    text = str(caught.value)
    assert text.count("save the channel and the plane of the nuclei alone") == 2
    assert "several channels of fluorescence" in text
    assert "`" not in text  # options that data sets do not have
    assert "`" not in text


def test_what_is_doubtful_about_an_image_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        write_pair(tmp_path / f"{name}.tif", tmp_path / f"{name}_labels.tif")
        tifffile.imwrite(tmp_path / f"{name}.tif", squares(1, 2).astype(np.float32) / 2)
    assert len(read_dataset(tmp_path)) == 2
    (line,) = said(capsys).strip().splitlines()
    assert "a and 1 more: " in line
    assert "float32" in line


def photograph() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 60, (40, 60))
    return (squares(1, 1) * 150 + noise).astype(np.uint8)


def write_jpeg(folder: Path) -> None:
    (folder / "masks" / "a.tif").unlink()
    cv2.imwrite(str(folder / "masks" / "a.jpg"), (squares(1, 2) * 90).astype(np.uint8))


def write_jpeg_called_png(folder: Path) -> None:
    write_jpeg(folder)
    (folder / "masks" / "a.jpg").rename(folder / "masks" / "a.png")


def swap(folder: Path) -> None:
    cv2.imwrite(str(folder / "masks" / "a.tif"), photograph())
    tifffile.imwrite(folder / "images" / "a.tif", squares(1, 2))


def write_1_bit(folder: Path) -> None:
    tifffile.imwrite(folder / "masks" / "a.tif", squares(1, 1) > 0, photometric="minisblack")


def write_binary(folder: Path) -> None:
    tifffile.imwrite(folder / "masks" / "a.tif", (squares(1, 1) * 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (write_jpeg, r"masks/a.jpg: labels are a JPEG"),
        (write_jpeg_called_png, r"masks/a.png: labels are a JPEG"),
        (swap, r"masks/a.tif: .*photograph"),
        (write_1_bit, r"masks/a.tif: .*the one value 1 in 2 separate places"),
        (write_binary, r"masks/a.tif: .*the one value 255 in 2 separate places"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_what_is_no_label_image_is_named(
    spoil: Callable[[Path], None], reason: str, zipped: bool, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    write_pair(data / "images" / "a.tif", data / "masks" / "a.tif")
    spoil(data)
    with pytest.raises(InvalidData, match=reason):
        read_dataset(zip_of(data) if zipped else data)


def zip_of(folder: Path) -> Path:
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as out:
        for path in sorted(folder.rglob("*")):
            out.write(path, path.relative_to(folder))
    return archive


def change_member(archive: Path, name: str, offset: int, value: int, size: int) -> None:
    """Overwrite a field of a member's entry in the directory of a zip."""
    data = bytearray(archive.read_bytes())
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(name.encode()))
    data[at + offset : at + offset + size] = value.to_bytes(size, "little")
    archive.write_bytes(data)


def test_each_bad_member_of_a_zip_is_one_problem(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("binary", "crc", "encrypted", "good", "huge", "packed"):
        write_pair(data / "images" / f"{name}.tif", data / "masks" / f"{name}.tif")
    write_binary(data)
    (data / "masks" / "a.tif").rename(data / "masks" / "binary.tif")
    archive = zip_of(data)
    change_member(archive, "images/encrypted.tif", 8, 1, 2)
    change_member(archive, "masks/crc.tif", 16, 7, 4)
    change_member(archive, "masks/huge.tif", 24, 2**31, 4)
    change_member(archive, "images/packed.tif", 10, 9, 2)
    with pytest.raises(InvalidData) as caught:
        read_dataset(archive)
    text = str(caught.value)
    assert "5 problems, and 1 image without one" in text
    for reason in (
        "encrypted: images/encrypted.tif: it is encrypted",
        "crc: masks/crc.tif: cannot be read (Bad CRC-32",
        "huge: masks/huge.tif: it has 2147483648 bytes; at most",
        "packed: images/packed.tif: cannot be read (That compression method is not supported)",
        "binary: masks/binary.tif: it holds the one value",
    ):
        assert reason in text


def test_a_damaged_lzma_member_of_a_zip_is_one_problem(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_pair(data / "images" / "a.tif", data / "masks" / "a.tif")
    archive = zip_of(data)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_LZMA) as out:
        out.write(data / "images" / "a.tif", "images/a.tif")
        out.write(data / "masks" / "a.tif", "masks/a.tif")
        start = out.getinfo("images/a.tif").header_offset
    content = bytearray(archive.read_bytes())
    content[start + 60 : start + 120] = bytes([255]) * 60
    archive.write_bytes(content)
    with pytest.raises(InvalidData, match=r"1 problem.*[\s\S]*a: images/a.tif: cannot be read"):
        read_dataset(archive)


def test_a_zip_with_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("images/\u00e4.tif", b"")
    archive.write_bytes(archive.read_bytes().replace("\u00e4".encode(), b"\xff\xff"))
    with pytest.raises(InvalidData, match=r"neither a folder nor a whole zip .*utf-8"):
        read_dataset(archive)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (f"id,kind\n{'a' * 140_000},x\n", r"manifest.csv: is no CSV \(field larger"),
        ("kind,id\nx,a\ny\n", r"manifest.csv: rows without an id: 2"),
    ],
)
def test_a_broken_manifest_is_one_problem(content: str, reason: str, tmp_path: Path) -> None:
    write_pair(tmp_path / "images" / "a.tif", tmp_path / "masks" / "a.tif")
    (tmp_path / "manifest.csv").write_text(content)
    with pytest.raises(InvalidData, match=reason):
        read_dataset(tmp_path)


def test_a_file_that_cannot_be_read_is_one_problem(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_pair(tmp_path / "images" / f"{name}.tif", tmp_path / "masks" / f"{name}.tif")
    (tmp_path / "images" / "a.tif").unlink()
    (tmp_path / "images" / "a.tif").symlink_to(tmp_path / "gone.tif")
    (tmp_path / "masks" / "b.tif").write_bytes(b"")
    with pytest.raises(InvalidData) as caught:
        read_dataset(tmp_path)
    assert "2 problems" in str(caught.value)
    assert "a: images/a.tif: cannot be read" in str(caught.value)
    assert "b: masks/b.tif: the file is empty" in str(caught.value)


def test_broken_lists_do_not_hide_other_problems(samples: list[Sample], tmp_path: Path) -> None:
    write_coco(tmp_path / "coco", samples[:2])
    (tmp_path / "coco" / "annotations" / "instances.json").write_text("[" * 200_000)
    write_pair(tmp_path / "b.tif", tmp_path / "b_labels.tif")
    write_pair(tmp_path / "c.tif", tmp_path / "c_labels.tif")
    tifffile.imwrite(tmp_path / "c_labels.tif", photograph())
    (tmp_path / "manifest.csv").write_text("name\nb\n")
    with pytest.raises(InvalidData) as caught:
        read_dataset(tmp_path)
    text = str(caught.value)
    assert "3 problems, and 1 image without" in text
    assert "coco/annotations/instances.json: is nested too deeply" in text
    assert "manifest.csv: no column 'id'" in text
    assert "c: c_labels.tif" in text


def test_a_mask_of_many_nuclei_is_none_of_one(samples: list[Sample], tmp_path: Path) -> None:
    write_one_mask_per_nucleus(tmp_path, samples[:1])
    masks = tmp_path / "stage1_train" / samples[0].id / "masks"
    for mask in masks.iterdir():
        mask.unlink()
    cv2.imwrite(str(masks / "all.png"), samples[0].labels)
    with pytest.raises(InvalidData, match=r"all\.png holds \d+ values besides 0; expected"):
        read_dataset(tmp_path)


def test_an_image_without_masks_has_no_nuclei_among_others_that_have(
    samples: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_one_mask_per_nucleus(tmp_path, samples[:2])
    empty = tmp_path / "stage1_train" / samples[0].id
    for mask in (empty / "masks").iterdir():
        mask.unlink()
    found = read_dataset(tmp_path)
    assert [bool(sample.labels.any()) for sample in found] == [False, True]
    assert f"without a mask in masks/, so without nuclei: stage1_train/{samples[0].id}" in said(
        capsys
    )
    (tmp_path / "stage1_train" / samples[1].id).rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "images" / f"{samples[1].id}.png").unlink()
    with pytest.raises(InvalidData, match=f"{samples[0].id}: .* has no partner"):
        read_dataset(tmp_path / "stage1_train")


def test_an_image_without_a_yolo_file_is_background(
    samples: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_yolo(tmp_path, samples[:2])
    (tmp_path / "labels" / "train" / f"{samples[0].id}.txt").unlink()
    (tmp_path / "labels" / "classes.txt").write_text("nucleus\n")
    found = read_dataset(tmp_path)
    assert [bool(sample.labels.any()) for sample in found] == [False, True]
    text = said(capsys)
    assert "without a file in labels/, so without nuclei" in text
    assert "outlines taken as nuclei: nucleus (" in text


def coco_of(data: Path, path: str, **image: object) -> None:
    """A COCO file in data/annotations/ of a single image, which it lists by a path."""
    labels = {path: squares(1, 2)}
    document = json.loads(coco_json(labels))
    document["images"][0] |= image
    (data / "annotations").mkdir(parents=True, exist_ok=True)
    (data / "annotations" / "all.json").write_text(json.dumps(document))


LISTED = [
    "a b.tif",
    "images/a b.tif",
    "./images/a b.tif",
    "..\\images\\a b.tif",
    "../images/a b.tif",
    "C:\\Users\\me\\a b.tif",
    "/home/me/data/images/a b.tif",
    "https://example.org/data/images/a%20b.tif?size=full",
    "s3://bucket/a%20b.tif",
]


@pytest.mark.parametrize("path", LISTED)
def test_an_image_is_found_by_the_path_that_coco_lists(path: str, tmp_path: Path) -> None:
    write_pair(tmp_path / "images" / "a b.tif", tmp_path / "spare.tif")
    (tmp_path / "spare.tif").unlink()
    coco_of(tmp_path, path)
    (sample,) = read_dataset(tmp_path)
    assert (sample.id, sample.labels.max()) == ("a b", 2)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/mnt/a.tif", r"may be x/a.tif or y/a.tif; list more of its path"),
        ("z/a.tif", "there is no such image"),
        ("https://example.org/", "there is no such image"),
        ("", "there is no such image"),
        ("http://[x/a.tif", "which is no URL"),
    ],
)
def test_a_listed_path_that_fits_no_image_is_named(path: str, reason: str, tmp_path: Path) -> None:
    for folder in ("x", "y"):
        write_pair(tmp_path / folder / "a.tif", tmp_path / "spare.tif")
    (tmp_path / "spare.tif").unlink()
    coco_of(tmp_path, path)
    with pytest.raises(InvalidData, match=reason):
        read_dataset(tmp_path)


def test_of_several_categories_one_must_be_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pair(tmp_path / "a.tif", tmp_path / "spare.tif")
    (tmp_path / "spare.tif").unlink()
    document = json.loads(coco_json({"a.tif": squares(1, 2, 3)}))
    document["categories"] = [{"id": 1, "name": "nucleus"}, {"id": 2, "name": "cell"}]
    document["annotations"][1]["category_id"] = 2
    (tmp_path / "all.json").write_text(json.dumps(document))
    with pytest.raises(InvalidData, match=r"nucleus \(2\), cell \(1\); say which .*--category"):
        read_dataset(tmp_path)
    with pytest.raises(InvalidData, match=r"no object of category 'mitosis'; found nucleus \(2\)"):
        read_dataset(tmp_path, ["mitosis"])
    (both,) = read_dataset(tmp_path, ["nucleus", "cell"])
    assert np.array_equal(both.labels, squares(1, 2, 3))
    capsys.readouterr()
    (nuclei,) = read_dataset(tmp_path, ["nucleus"])
    assert np.array_equal(nuclei.labels, squares(1, 0, 2))
    assert "outlines taken as nuclei: nucleus (2); left out: cell (1)" in said(capsys)


def test_truth_may_be_the_geojson_that_we_write(samples: list[Sample], tmp_path: Path) -> None:
    write_images_and_masks(tmp_path, samples[:1])
    (tmp_path / "masks" / f"{samples[0].id}.png").unlink()
    labels = samples[0].labels.astype(np.uint32)
    nuclei = measure(labels, samples[0].pixels, np.full(labels.shape, 204, np.uint8))
    text = feature_collection(
        Segmentation(labels, nuclei, None, "unet", "3"), Frame(samples[0].pixels)
    )
    (tmp_path / "masks" / f"{samples[0].id}.geojson").write_bytes(b"".join(text))
    assert fingerprint(read_dataset(tmp_path)) == fingerprint(samples[:1])


def test_truth_may_be_from_labelme(tmp_path: Path) -> None:
    write_pair(tmp_path / "a.tif", tmp_path / "spare.tif")
    (tmp_path / "spare.tif").unlink()
    shapes = [
        {"label": "nucleus", "points": [[4, 4], [12, 12]], "shape_type": "rectangle"},
        {"label": "nucleus", "points": [[16, 4], [24, 4], [24, 12], [16, 12]]},
    ]
    document = {
        "imagePath": "..\\raw\\a.tif",
        "imageHeight": 40,
        "imageWidth": 60,
        "shapes": shapes,
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    (sample,) = read_dataset(tmp_path)
    assert np.array_equal(sample.labels, squares(1, 2))
    (tmp_path / "a.json").write_text(json.dumps({**document, "imageWidth": 61}))
    with pytest.raises(InvalidData, match=r"a: a.json: says that the image is \(40, 61\)"):
        read_dataset(tmp_path)
    (tmp_path / "a.json").write_text('{"shapes": ')
    with pytest.raises(InvalidData, match=r"a: a.json: is no JSON"):
        read_dataset(tmp_path)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(InvalidData, match="neither a folder nor a file"):
            read_dataset(path)
    for folder in ("images", "masks"):
        (tmp_path / "set" / folder).mkdir(parents=True)
        os.mkfifo(tmp_path / "set" / folder / "a.png")
    with pytest.raises(InvalidData, match=r"images/a.png: it is no file"):
        read_dataset(tmp_path / "set")


def test_several_data_sets_are_sources_of_one(samples: list[Sample], tmp_path: Path) -> None:
    write_dataset(samples[:2], tmp_path / "a", "labels")
    write_dataset(samples[1:3], tmp_path / "b.c", "labels")
    found = read_datasets([tmp_path / "a", tmp_path / "b.c"])
    first, twice, third = (sample.id for sample in samples[:3])
    assert [(sample.source, sample.id) for sample in found] == [
        ("a", first),
        ("a", f"a_{twice}"),
        ("b.c", f"b.c_{twice}"),
        ("b.c", third),
    ]


def test_sources_are_told_apart_by_name(samples: list[Sample], tmp_path: Path) -> None:
    for parent in ("x", "y"):
        write_dataset(samples[:1], tmp_path / parent / "set", "labels")
    with pytest.raises(InvalidData, match="2 data sets are called 'set'"):
        read_datasets([tmp_path / "x" / "set", tmp_path / "y" / "set"])
