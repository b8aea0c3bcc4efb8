"""Images with label images, read from the common forms of data sets; errors name each file."""

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from nuclei.console import messages, tracked
from nuclei.errors import InvalidData, InvalidInput
from nuclei.quoting import LISTED, listed, quoted
from training.data.categories import chosen_categories, counted
from training.data.files import MANIFEST, Files, naming
from training.data.names import is_image, stem_of
from training.data.outlines import NO_CATEGORY
from training.data.pairs import Pair, find_pairs, shown

FORMS = """expected, as a folder or a zip, one of
  images/<name>.png  masks/<name>.png  [manifest.csv with columns id, kind, licence]
  <id>/images/<id>.png  <id>/masks/*.png   (one mask per nucleus, the 2018 Data Science Bowl's form)
  <name>.tif  <name>_labels.tif            (or _masks, .labels)
  images/<name>.png  annotations.json      (COCO's form; the images may lie beside the file)
  images/<name>.png  labels/<name>.txt     (YOLO's form, a polygon per nucleus)
  <name>.tif  <name>.geojson               (of QuPath; also in images/ and labels/)
  <name>.png  <name>.json                  (of labelme; also in images/ and labels/)
with label images of whole numbers: 0 is background, one number per nucleus"""


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its ground truth.

    Attributes:
        id: name of the image, without its folder and suffix.
        modality: `fluorescence`, `histology`, `brightfield`, or any word in the manifest.
        pixels: uint8 or uint16 [H, W, C], C is 1 or 3.
        labels: uint16 [H, W], 0 is background, nuclei are 1..N without gaps.
        source: name of the data set that it is from.
        licence: that the manifest states, SPDX; empty where it states none.
    """

    id: str
    modality: str
    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    labels: NDArray[np.uint16]
    source: str = ""
    licence: str = ""


def read_datasets(paths: Sequence[Path], categories: Sequence[str] = ()) -> list[Sample]:
    """Read several data sets as one; each is a source.

    Where an id is that of images of several data sets, their sources become part of the ids.

    Args:
        paths: at least one, as of `read_dataset`.
        categories: as of `read_dataset`, of all of them.

    Raises:
        InvalidData: as of `read_dataset`, or two have the same name.
        MissingPrerequisite: as of `read_dataset`.
    """
    names = Counter(source_of(path) for path in paths)
    for name, count in names.items():
        if count > 1:
            raise InvalidData(
                f"{count} data sets are called {quoted(name)}; expected names that tell sources "
                "apart: rename one"
            )
    samples = [sample for path in paths for sample in read_dataset(path, categories)]
    ids = Counter(sample.id for sample in samples)
    return [
        sample if ids[sample.id] == 1 else replace(sample, id=f"{sample.source}_{sample.id}")
        for sample in samples
    ]


def source_of(path: Path) -> str:
    """The name of the data set in a folder or zip."""
    path = path.resolve()
    return path.name if path.is_dir() else path.stem


def read_dataset(path: Path, categories: Sequence[str] = ()) -> list[Sample]:
    """Read every image of a data set, in the order of their ids.

    What was taken or left out where there was a choice is printed to standard error.

    Args:
        path: folder or zip in one of the forms of `FORMS`.
        categories: those of outlines that are nuclei; may be left out where there is only one.

    Raises:
        InvalidData: none of these forms, or files that cannot be used, each named; or outlines of
            several categories, none of which was asked for.
        MissingPrerequisite: masks are polygons or run-length codes, and pycocotools is missing.
    """
    files = Files.of(path)
    pairs = find_pairs(files)
    found = pairs.categories()
    chosen = chosen_categories(found, categories)
    manifest = _Manifest(files)
    problems = [*files.problems, *pairs.problems]
    samples = []
    doubts: dict[str, list[str]] = defaultdict(list)
    for pair in tracked(sorted(pairs.found, key=lambda pair: pair.id), f"Reading {path.name}"):
        row = manifest.of(pair)
        try:
            frame = files.frame(pair.image)
            pixels = frame.pixels
            labels = pair.truth.labels(files, (pixels.shape[0], pixels.shape[1]), chosen)
            for warning in frame.warnings:
                doubts[warning].append(pair.id)
            modality = row.modality or guess_modality(pixels)
            told = source_of(path), row.licence
            samples.append(Sample(pair.id, modality, pixels, numbered(labels), *told))
        except InvalidInput as error:
            problems.append(f"{pair.id}: {error}")
    problems += manifest.problems()
    said = [f"{shown(ids)}: {warning}" for warning, ids in doubts.items()]
    for note in (*pairs.notes, *_left_out(files), *_taken(found, chosen), *said[:LISTED]):
        messages().print(f"{path}: {note}", soft_wrap=True)
    if problems:
        raise InvalidData(
            f"{path}: {_number(problems, 'problem')}, and {_number(samples, 'image')} without one; "
            f"repair or remove what is named{listed(problems)}"
        )
    if not samples:
        raise InvalidData(f"{path}: no images with masks were found; {FORMS}")
    return samples


def fingerprint(samples: Sequence[Sample]) -> str:
    """SHA-256 over pixels and labels; names and the order of the samples do not matter."""
    digests = sorted(
        hashlib.sha256(
            f"{sample.pixels.shape} {sample.pixels.dtype.str}".encode()
            + sample.pixels.tobytes()
            + sample.labels.tobytes()
        ).digest()
        for sample in samples
    )
    return hashlib.sha256(b"".join(digests)).hexdigest()


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


def _number(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


@dataclass(frozen=True)
class _Row:
    """What a manifest says of an image; empty where it says nothing."""

    modality: str = ""
    licence: str = ""


class _Manifest:
    """The modalities and licences of images, from files with the columns id, kind and licence.

    An id is that of a pair, or the name of an image in the folder of the file or below.
    """

    def __init__(self, files: Files) -> None:
        self._rows: dict[tuple[PurePosixPath, str], _Row] = {}
        self._problems: list[str] = []
        self._used: set[tuple[PurePosixPath, str]] = set()
        self._images = {stem_of(name) for name in files.names if is_image(name)}
        for file in files.names:
            if file.name == MANIFEST:
                try:
                    self._rows |= naming(file, partial(_manifest, files, file))
                except InvalidData as error:
                    self._problems.append(str(error))

    def of(self, pair: Pair) -> _Row:
        """What is said of an image."""
        for folder in (pair.home, *pair.home.parents):
            for name in (pair.id, pair.stem):
                if (folder, name) in self._rows:
                    self._used.add((folder, name))
                    return self._rows[folder, name]
        return _Row()

    def problems(self) -> list[str]:
        """What cannot be read, and the ids that no image has."""
        unused = sorted(set(self._rows) - self._used)
        return [
            *self._problems,
            *(
                f"{folder / MANIFEST}: no image of id {name}"
                for folder, name in unused
                if name not in self._images
            ),
        ]


def _manifest(files: Files, file: PurePosixPath) -> dict[tuple[PurePosixPath, str], _Row]:
    lines = files.read(file).decode("utf-8-sig", "replace").splitlines()
    try:
        rows = list(csv.DictReader(lines))
    except csv.Error as error:
        raise InvalidData(f"is no CSV ({error}); expected columns id, kind") from error
    if rows and "id" not in rows[0]:
        raise InvalidData("no column 'id'; expected columns id, kind")
    short = [str(number) for number, row in enumerate(rows, start=1) if row["id"] is None]
    if short:
        raise InvalidData(f"rows without an id: {', '.join(short[:LISTED])}; add it or remove them")
    return {
        (file.parent, row["id"]): _Row(row.get("kind") or "", row.get("licence") or "")
        for row in rows
    }


def _left_out(files: Files) -> Iterator[str]:
    if files.left_out:
        kinds = ", ".join(f"{n} {what}" for what, n in sorted(files.left_out.items()))
        yield f"left out, because they are not read: {kinds} (save images as PNG or TIFF)"


def _taken(found: Counter[str], chosen: Collection[str]) -> Iterator[str]:
    left = Counter({name: n for name, n in found.items() if name not in chosen})
    taken = found - left
    if set(found) - {NO_CATEGORY}:
        rest = f"; left out: {counted(left)}" if left else ""
        yield f"outlines taken as nuclei: {counted(taken)}{rest}"


def numbered(labels: NDArray[np.uint32]) -> NDArray[np.uint16]:
    """The same nuclei as 1..N, uint16."""
    values, numbers = np.unique(labels, return_inverse=True)
    if values[0] != 0:
        numbers = numbers + 1
    if len(values) > np.iinfo(np.uint16).max:
        raise InvalidData(f"{len(values)} nuclei in one image; expected at most 65535: cut it")
    return numbers.reshape(labels.shape).astype(np.uint16)
