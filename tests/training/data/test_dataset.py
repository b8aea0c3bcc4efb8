import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from nuclei.errors import InvalidData, MissingPrerequisite
from training.data.coco import coco_json
from training.data.dataset import Sample, fingerprint, guess_modality, read_dataset, summary
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
    tifffile.imwrite(data / "masks" / f"{name}.tif", np.zeros((96, 128), np.float32))


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
    (spoil_binary_mask, "not a binary mask"),
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
    (spoil_second_image, "two images are called fluorescence-2"),
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
    write_side_by_side(tmp_path / "data" / "a", samples[:1])
    write_side_by_side(tmp_path / "data" / "b", samples[:1])
    with pytest.raises(InvalidData, match="two images are called"):
        read_dataset(tmp_path / "data")


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
