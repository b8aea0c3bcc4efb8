"""Images with label images, read from the common forms of data sets; errors name each file."""

import csv
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from nuclei.console import messages
from nuclei.errors import InvalidData, InvalidInput
from training.data.coco import CocoImage, coco_images
from training.data.files import (
    COCO_SUFFIX,
    IMAGES_FOLDER,
    MANIFEST,
    YOLO_FOLDER,
    Files,
    Pixels,
    is_yolo,
    naming,
)
from training.data.kaggle import is_kaggle, join_masks, kaggle_images
from training.data.yolo import parse_yolo

LABEL_FOLDERS = ("masks", "labels")
LABEL_NAME = re.compile(r"^(?P<stem>.+)[._-](labels?|masks?)$")
SHOWN_PROBLEMS = 10

FORMS = """expected, as a folder or a zip, one of
  images/<name>.png  masks/<name>.png  [manifest.csv with columns id, kind]
  <id>/images/<id>.png  <id>/masks/*.png   (one mask per nucleus, the 2018 Data Science Bowl's form)
  <name>.tif  <name>_labels.tif            (or _masks, .labels)
  images/<name>.png  annotations.json      (COCO's form; the images may lie beside the file)
  images/<name>.png  labels/<name>.txt     (YOLO's form, a polygon per nucleus)
with label images of whole numbers: 0 is background, one number per nucleus"""


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its ground truth.

    Attributes:
        id: name of the image, without its folder and suffix.
        modality: `fluorescence`, `histology`, `brightfield`, or any word in the manifest.
        pixels: uint8 or uint16 [H, W, C], C is 1 or 3.
        labels: uint16 [H, W], 0 is background, nuclei are 1..N without gaps.
    """

    id: str
    modality: str
    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    labels: NDArray[np.uint16]


def read_dataset(path: Path) -> list[Sample]:
    """Read every image of a data set, in the order of their ids.

    Args:
        path: folder or zip in one of the forms of `FORMS`.

    Raises:
        InvalidData: none of these forms, or pairs that cannot be used; each file is named.
        MissingPrerequisite: masks are polygons or run-length codes, and pycocotools is missing.
    """
    files = Files.of(path)
    modalities = _manifest(files)
    readers = _pairs(files, path)
    missing = sorted(set(modalities) - set(readers))
    problems = [f"{MANIFEST}: no image of id {name}" for name in missing]
    samples = []
    console = messages()
    task = f"Reading {path.name}"
    for name, read in track(sorted(readers.items()), task, console=console, transient=True):
        try:
            pixels, labels = read()
            modality = modalities.get(name) or guess_modality(pixels)
            samples.append(Sample(name, modality, pixels, _numbered(labels)))
        except InvalidInput as error:
            problems.append(f"{name}: {error}")
    if problems:
        shown = "\n  ".join(problems[:SHOWN_PROBLEMS])
        more = len(problems) - SHOWN_PROBLEMS
        rest = f"\n  and {more} more" if more > 0 else ""
        raise InvalidData(
            f"{path}: {len(problems)} of {len(readers) + len(missing)} images cannot be used; "
            f"repair or remove them\n  {shown}{rest}"
        )
    return samples


def fingerprint(samples: Sequence[Sample]) -> str:
    """SHA-256 over ids, pixels and labels; the order of the samples does not matter."""
    digest = hashlib.sha256()
    for sample in sorted(samples, key=lambda sample: sample.id):
        digest.update(sample.id.encode())
        digest.update(sample.pixels.tobytes())
        digest.update(sample.labels.tobytes())
    return digest.hexdigest()


def summary(samples: Sequence[Sample]) -> dict[str, tuple[int, int]]:
    """(images, nuclei) by modality."""
    images = Counter(sample.modality for sample in samples)
    nuclei: Counter[str] = Counter()
    for sample in samples:
        nuclei[sample.modality] += int(sample.labels.max(initial=0))
    return {modality: (images[modality], nuclei[modality]) for modality in sorted(images)}


def guess_modality(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> str:
    """Modality of an image [H, W, C] not in a manifest: by its colour, then its background."""
    values = pixels.astype(np.float32)
    scale = max(float(values.max()), 1.0)
    if float((values.max(axis=2) - values.min(axis=2)).mean()) > 0.05 * scale:
        return "histology"
    return "brightfield" if float(np.median(values)) > 0.5 * scale else "fluorescence"


def _manifest(files: Files) -> dict[str, str]:
    """Modality by id, empty without a manifest."""
    found = [name for name in files.names if name.name == MANIFEST]
    if not found:
        return {}
    rows = list(csv.DictReader(files.read(found[0]).decode("utf-8-sig").splitlines()))
    if rows and "id" not in rows[0]:
        raise InvalidData(f"{found[0]}: no column 'id'; expected columns id, kind")
    return {row["id"]: row.get("kind") or "" for row in rows}


Pair = tuple[Pixels, NDArray[np.uint32]]
Read = Callable[[], Pair]


def _pairs(files: Files, path: Path) -> Mapping[str, Read]:
    """The function that reads each pair, by id."""
    images = files.images()
    annotated = [*_coco(files, images), *_yolo(files, images)]
    rest = sorted(set(images) - {image for _, image, _ in annotated})
    readers: dict[str, Read] = {}
    for name, _, read in [*annotated, *_with_label_images(files, rest)]:
        if name in readers:
            raise InvalidData(f"{path}: two images are called {name}; rename one")
        readers[name] = read
    if not readers:
        raise InvalidData(f"{path}: no images with masks were found; {FORMS}")
    return readers


# Id, the image if there is one, and the function that reads the pair.
Annotated = tuple[str, PurePosixPath | None, Read]


def _coco(files: Files, images: Sequence[PurePosixPath]) -> Iterator[Annotated]:
    """Images that a COCO file lists: anywhere below its folder, or in a folder beside that."""
    by_name: dict[str, list[PurePosixPath]] = defaultdict(list)
    for name in images:
        by_name[name.name].append(name)
    for file in files.names:
        if file.suffix != COCO_SUFFIX:
            continue
        home = file.parent.parent if file.parent.name == "annotations" else file.parent
        for listed in naming(file, partial(_read_coco, files, file)):
            path = PurePosixPath(listed.file_name.replace("\\", "/"))
            tail = tuple(part for part in path.parts if part not in ("..", "/"))
            fitting = (
                name
                for name in by_name[path.name]
                if name.is_relative_to(home) and name.parts[-len(tail) :] == tail
            )
            image = next(fitting, None)
            yield path.stem, image, partial(_read_listed, files, file, listed, image)


def _read_coco(files: Files, file: PurePosixPath) -> list[CocoImage]:
    return coco_images(files.read(file)) or []


def _read_listed(
    files: Files, file: PurePosixPath, listed: CocoImage, image: PurePosixPath | None
) -> Pair:
    if image is None:
        raise InvalidData(f"{file} lists {listed.file_name}, and there is no such image; add it")
    pixels = files.pixels(image)
    if pixels.shape[:2] != (listed.height, listed.width):
        raise InvalidData(
            f"{file} lists {listed.file_name} as {(listed.height, listed.width)}, and it is "
            f"{pixels.shape[:2]} pixels; expected the same size"
        )
    return pixels, naming(file, listed.labels)


def _yolo(files: Files, images: Sequence[PurePosixPath]) -> Iterator[Annotated]:
    """`labels/x.txt`, or `labels/<part>/x.txt`, with the same path below `images`."""
    by_path = {image.with_suffix(""): image for image in images}
    for file in files.names:
        if not is_yolo(file):
            continue
        parts = list(file.with_suffix("").parts)
        parts[len(parts) - 1 - parts[::-1].index(YOLO_FOLDER, 1)] = IMAGES_FOLDER
        image = by_path.get(PurePosixPath(*parts))
        yield file.stem, image, partial(_read_yolo, files, image, file)


def _read_yolo(files: Files, image: PurePosixPath | None, file: PurePosixPath) -> Pair:
    if image is None:
        raise _without_partner(file)
    pixels = files.pixels(image)
    text = files.read(file).decode(errors="replace")
    return pixels, naming(file, lambda: parse_yolo(text, *pixels.shape[:2]).labels())


def _with_label_images(files: Files, images: Sequence[PurePosixPath]) -> Iterator[Annotated]:
    kaggle = ((image.stem, image, masks) for image, masks in kaggle_images(images))
    for name, image, labels in [*kaggle, *_label_images(images)]:
        yield name, image, partial(_read_label_images, files, image, labels)


LabelledFile = tuple[str, PurePosixPath, list[PurePosixPath]]


def _label_images(images: Sequence[PurePosixPath]) -> Iterator[LabelledFile]:
    """`images/x` with `masks/x` or `labels/x`, or `x` beside `x_labels` or `x_masks`."""
    kaggle = {image.parent.parent for image in images if is_kaggle(image)}
    rest = [name for name in images if name.parent.parent not in kaggle]
    truth: dict[tuple[PurePosixPath, str], PurePosixPath] = {}
    plain = []
    for name in rest:
        suffixed = LABEL_NAME.match(name.stem)
        stem = suffixed["stem"] if suffixed else name.stem
        if name.parent.name in LABEL_FOLDERS:
            truth[name.parent.parent, stem] = name
        elif suffixed:
            truth[name.parent, stem] = name
        else:
            plain.append(name)
    for name in plain:
        home = name.parent.parent if name.parent.name == IMAGES_FOLDER else name.parent
        labels = truth.pop((home, name.stem), None)
        yield name.stem, name, [labels] if labels else []
    for (_, stem), labels in truth.items():
        yield stem, labels, []


def _read_label_images(files: Files, image: PurePosixPath, labels: Sequence[PurePosixPath]) -> Pair:
    if not labels:
        raise _without_partner(image)
    pixels = files.pixels(image)
    masks = [(name, files.labels(name)) for name in labels]
    for name, mask in masks:
        if mask.shape != pixels.shape[:2]:
            raise InvalidData(
                f"{name} is {mask.shape} and {image} is {pixels.shape[:2]} pixels; expected "
                "the same size"
            )
    if is_kaggle(image):
        return pixels, join_masks(masks)
    _refuse_binary(*masks[0])
    return pixels, masks[0][1]


def _without_partner(name: PurePosixPath) -> InvalidData:
    return InvalidData(f"{name} has no partner: every image needs a mask, every mask an image")


def _refuse_binary(name: PurePosixPath, labels: NDArray[np.uint32]) -> None:
    values = np.unique(labels[labels > 0])
    if len(values) == 1:
        n_parts = cv2.connectedComponents((labels > 0).astype(np.uint8))[0] - 1
        if n_parts > 1:
            raise InvalidData(
                f"{name} holds the one value {values[0]} in {n_parts} separate places; expected a "
                "label image with a different number for every nucleus, not a binary mask"
            )


def _numbered(labels: NDArray[np.uint32]) -> NDArray[np.uint16]:
    """The same nuclei as 1..N, uint16."""
    values, numbers = np.unique(labels, return_inverse=True)
    if values[0] != 0:
        numbers = numbers + 1
    if len(values) > np.iinfo(np.uint16).max:
        raise InvalidData(f"{len(values)} nuclei in one image; expected at most 65535: cut it")
    return numbers.reshape(labels.shape).astype(np.uint16)
