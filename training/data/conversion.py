"""Data sets written in the forms that `training.data.dataset` reads."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from nuclei.errors import InvalidOption
from nuclei.formats.png import encode_png
from nuclei.quoting import quoted
from training.data.coco import coco_json
from training.data.dataset import Sample
from training.data.files import MANIFEST, YOLO_FOLDER
from training.data.kaggle import IMAGES_FOLDER
from training.data.places import LABEL_FOLDERS
from training.data.split import split_samples
from training.data.yolo import yolo_text
from training.folders import filling

COCO_FILE = "annotations.json"
YOLO_FILE = "data.yaml"
# The default split of `nuclei train`, so that ultralytics' own training can be compared with ours.
VALIDATION_FRACTION, SEED = 0.1, 0


def write_dataset(samples: Sequence[Sample], folder: Path, form: str) -> None:
    """Write images as PNG, with their modalities, and their nuclei in one of `FORMS`.

    Args:
        samples: what to write.
        folder: new, or empty.
        form: `labels` (label images), `coco` (one JSON) or `yolo` (a text file per image, and what
            ultralytics needs besides; see `training.data.yolo` for what its polygons cannot hold).

    Raises:
        InvalidOption: an unknown form, or the folder is not empty or cannot be written; nothing of
            the data set is left in it.
    """
    if form not in FORMS:
        raise InvalidOption(f"unknown form {quoted(form)}; expected one of {', '.join(FORMS)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidOption(f"{folder} is not empty and is never overwritten; name a new folder")
    with filling(folder) as aside:
        _write(samples, aside)
        FORMS[form](samples, aside)


def _write(samples: Sequence[Sample], folder: Path) -> None:
    """The images and their modalities."""
    (folder / IMAGES_FOLDER).mkdir()
    modalities = io.StringIO()
    rows = csv.writer(modalities, lineterminator="\n")
    rows.writerow(["id", "kind"])
    for sample in samples:
        picture = sample.pixels[..., 0] if sample.pixels.shape[2] == 1 else sample.pixels
        (folder / _image(sample)).write_bytes(encode_png(picture))
        rows.writerow([sample.id, sample.modality])
    (folder / MANIFEST).write_text(modalities.getvalue())


def _image(sample: Sample) -> str:
    return f"{IMAGES_FOLDER}/{sample.id}.png"


def _write_labels(samples: Sequence[Sample], folder: Path) -> None:
    masks = folder / LABEL_FOLDERS[0]
    masks.mkdir()
    for sample in samples:
        (masks / f"{sample.id}.png").write_bytes(encode_png(sample.labels))


def _write_coco(samples: Sequence[Sample], folder: Path) -> None:
    text = coco_json({_image(sample): sample.labels for sample in samples})
    (folder / COCO_FILE).write_text(text)


def _write_yolo(samples: Sequence[Sample], folder: Path) -> None:
    (folder / YOLO_FOLDER).mkdir()
    for sample in samples:
        (folder / YOLO_FOLDER / f"{sample.id}.txt").write_text(yolo_text(sample.labels))
    training, validation = split_samples(samples, VALIDATION_FRACTION, SEED)
    for name, part in (("train", training), ("val", validation)):
        (folder / f"{name}.txt").write_text("".join(f"./{_image(sample)}\n" for sample in part))
    (folder / YOLO_FILE).write_text("train: train.txt\nval: val.txt\nnames:\n  0: nucleus\n")


FORMS: dict[str, Callable[[Sequence[Sample], Path], None]] = {
    "labels": _write_labels,
    "coco": _write_coco,
    "yolo": _write_yolo,
}
