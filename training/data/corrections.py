"""Corrected images as training truth: what a person corrected, added to a data set with its origin.

The data set is a folder of label images (`images/`, `masks/`, `manifest.csv`), which everything
reads that reads data sets, and `provenance.csv`: where each image and its truth are from.
"""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import InvalidData, InvalidOption
from nuclei.evaluation.unseen import image_digest
from nuclei.formats.png import encode_png
from nuclei.imaging.frame_options import AS_IT_IS, FrameOptions
from nuclei.imaging.images import FRAME_SUFFIXES, read_frame, read_labels
from nuclei.imaging.plausibility import check_label_image
from nuclei.quoting import quoted
from nuclei.whole_file import write_whole
from training.data.categories import chosen_categories, counted
from training.data.coco import CocoImage, coco_images
from training.data.dataset import guess_modality, numbered
from training.data.documents import parsed_json
from training.data.files import JSON_SUFFIXES, MANIFEST, PROVENANCE, Files, naming, reader
from training.data.geojson import REGION, geojson_outlines
from training.data.kaggle import IMAGES_FOLDER
from training.data.labelme import labelme_image
from training.data.names import stem_of
from training.data.outlines import Outline, Outlines
from training.data.places import LABEL_FOLDERS
from training.data.rois import ROI_SUFFIX, ZIP_SUFFIX, roi_outlines

MASKS_FOLDER = LABEL_FOLDERS[0]
COLUMNS = (
    *("id", "added", "by", "nuclei", "modality", "image", "image_sha256", "pixels_digest"),
    *("truth", "truth_sha256", "region", "corrected_from", "tool"),
)
TRUTHS = (
    "a label image (TIFF or PNG), GeoJSON of QuPath or of ours, coco.json, labelme's JSON, or a "
    "zip of ImageJ's ROI Manager"
)
# Where outlines cover less of the image than this, the rest may not have been looked at.
LEAST_EXTENT = 0.5


@dataclass(frozen=True)
class Region:
    """The part of an image in which all nuclei are outlined, pixels from its upper left corner."""

    x: int
    y: int
    width: int
    height: int

    @classmethod
    def of_text(cls, text: str) -> "Region":
        """Read `x,y,width,height`; raises InvalidOption."""
        parts = text.split(",")
        if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
            raise InvalidOption(
                f"region is {quoted(text)}; expected x,y,width,height in pixels, such as "
                "0,0,512,512"
            )
        return cls(*map(int, parts))

    def __str__(self) -> str:
        return f"{self.x},{self.y},{self.width},{self.height}"

    def check(self, shape: tuple[int, int]) -> None:
        """Raises InvalidOption when it is not within an image of this height and width."""
        height, width = shape
        inside = self.x + self.width <= width and self.y + self.height <= height
        if not inside or not self.width or not self.height:
            raise InvalidOption(
                f"the region {self} does not lie in the image, which is {width} x {height} pixels; "
                "expected x,y,width,height within it"
            )

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


@dataclass(frozen=True)
class Correction:
    """An image and what a person says is in it.

    Attributes:
        image: its file.
        truth: file of its nuclei, in one of the forms of `TRUTHS`.
        by: who corrected it.
        corrected_from: the model and version whose answer was corrected, if it is known.
        modality: of the image; empty to guess it.
        categories: those of outlines that are nuclei; may be left out where there is only one.
        region: where all nuclei are outlined; None for everywhere, or where the truth says so.
        options: how the image is read.
    """

    image: Path
    truth: Path
    by: str
    corrected_from: str = ""
    modality: str = ""
    categories: tuple[str, ...] = ()
    region: Region | None = None
    options: FrameOptions = AS_IT_IS


@dataclass(frozen=True)
class Added:
    """What was added.

    Attributes:
        id: of the image in the data set.
        n_nuclei: in it.
        notes: what was taken, left out or doubtful, one sentence each.
    """

    id: str
    n_nuclei: int
    notes: tuple[str, ...]


class CorrectedSet:
    """A data set that corrected images are added to."""

    def __init__(self, folder: Path) -> None:
        """Open a data set, or name the folder of a new one.

        Raises:
            InvalidOption: the folder holds something else.
            InvalidData: an image, or provenance.csv, cannot be read.
        """
        self._folder = folder
        if folder.exists() and not _is_ours(folder):
            raise InvalidOption(
                f"{folder} is no folder with {IMAGES_FOLDER}/ and {MASKS_FOLDER}/; name a new "
                f"folder, or convert it with `nuclei data convert {folder} NEW_FOLDER --to labels`"
            )
        self._rows = self._read_provenance()
        self._digests = dict(self._known_digests())

    def add(self, correction: Correction) -> Added:
        """Add an image with its truth.

        Raises:
            InvalidInput: the image or its truth cannot be used, or the image is there already.
        """
        frame = read_frame(correction.image, options=correction.options)
        pixels = frame.pixels
        shape = (pixels.shape[0], pixels.shape[1])
        labels, region, notes = _truth(correction, shape)
        notes += frame.warnings
        if region is not None:
            naming(correction.image, partial(region.check, shape))
            n_all = _n_nuclei(labels)
            pixels, labels = pixels[region.slices], labels[region.slices]
            if outside := n_all - _n_nuclei(labels):
                notes.append(f"{outside} nuclei outside the region {region} are left out")
        else:
            notes += _doubts(labels)
        labels_1_to_n = naming(correction.image, lambda: numbered(labels))
        digest = image_digest(pixels)
        if digest in self._digests:
            name = self._digests[digest]
            raise InvalidData(
                f"{correction.image} is in {self._folder} already, as {name}; to give it other "
                f"truth, remove {IMAGES_FOLDER}/{name}.png and {MASKS_FOLDER}/{name}.png first"
            )
        name = self._free_name(stem_of(correction.image))
        row = {
            "id": name,
            "added": datetime.now(UTC).isoformat(timespec="seconds"),
            "by": correction.by,
            "nuclei": str(labels_1_to_n.max(initial=0)),
            "modality": correction.modality or guess_modality(pixels),
            "image": correction.image.name,
            "image_sha256": _sha256(correction.image),
            "pixels_digest": digest,
            "truth": correction.truth.name,
            "truth_sha256": _sha256(correction.truth),
            "region": str(region or ""),
            "corrected_from": correction.corrected_from,
            "tool": f"nuclei-serving {version('nuclei-serving')}",
        }
        self._write(row, pixels, labels_1_to_n)
        self._digests[digest] = name
        return Added(name, int(row["nuclei"]), tuple(notes))

    def _write(
        self,
        row: dict[str, str],
        pixels: NDArray[np.uint8] | NDArray[np.uint16],
        labels: NDArray[np.uint16],
    ) -> None:
        """The image comes last: while it is missing, the same may be added again."""
        for folder in (IMAGES_FOLDER, MASKS_FOLDER):
            (self._folder / folder).mkdir(parents=True, exist_ok=True)
        name = row["id"]
        picture = pixels[..., 0] if pixels.shape[2] == 1 else pixels
        self._rows = [one for one in self._rows if one["id"] != name] + [row]
        write_whole(self._folder / PROVENANCE, _csv(COLUMNS, self._rows))
        self._add_to_manifest(name, row["modality"])
        write_whole(self._folder / MASKS_FOLDER / f"{name}.png", encode_png(labels))
        write_whole(self._folder / IMAGES_FOLDER / f"{name}.png", encode_png(picture))

    def _add_to_manifest(self, name: str, modality: str) -> None:
        path = self._folder / MANIFEST
        rows = list(_rows(path)) if path.exists() else []
        columns = list(rows[0]) if rows else ["id", "kind"]
        kept = [row for row in rows if row["id"] != name]
        new = {column: "" for column in columns} | {"id": name, "kind": modality}
        write_whole(path, _csv(list(new), [*kept, new]))

    def _free_name(self, stem: str) -> str:
        taken = {stem_of(path) for path in (self._folder / IMAGES_FOLDER).glob("*")}
        names = (f"{stem}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 10**6))))
        return next(name for name in names if name not in taken)

    def _read_provenance(self) -> list[dict[str, str]]:
        path = self._folder / PROVENANCE
        rows = list(_rows(path)) if path.exists() else []
        if rows and not set(COLUMNS) <= set(rows[0]):
            raise InvalidData(
                f"{path} lacks columns; expected {', '.join(COLUMNS)}, as `nuclei data add` writes "
                "them: rename the file, and add the images again"
            )
        return rows

    def _known_digests(self) -> Iterator[tuple[str, str]]:
        """Digest and id of each image that is there."""
        if not self._folder.exists():
            return
        noted = {row["id"]: row["pixels_digest"] for row in self._rows}
        files = Files.of(self._folder)
        for name in files.names:
            if name.parts[0] == IMAGES_FOLDER and name.name != MANIFEST:
                stem = stem_of(name)
                yield noted.get(stem) or image_digest(files.frame(name).pixels), stem


def _is_ours(folder: Path) -> bool:
    parts = [(folder / part).is_dir() for part in (IMAGES_FOLDER, MASKS_FOLDER)]
    return folder.is_dir() and (all(parts) or not any(folder.iterdir()))


def _truth(
    correction: Correction, shape: tuple[int, int]
) -> tuple[NDArray[np.uint32], Region | None, list[str]]:
    """The label image uint32 [H, W], where all nuclei are outlined, and what there is to say."""
    path = correction.truth
    suffix = path.suffix.lower()
    if suffix in FRAME_SUFFIXES:
        return _label_image(path, shape), correction.region, []
    if suffix not in (*JSON_SUFFIXES, ROI_SUFFIX, ZIP_SUFFIX):
        raise InvalidData(f"{path} is not read as truth; expected {TRUTHS}")
    notes: list[str] = []

    def draw() -> tuple[NDArray[np.uint32], Region | None]:
        data = reader(path)()
        if suffix in JSON_SUFFIXES:
            outlines = _of_json(parsed_json(data), correction.image)
        else:
            outlines = roi_outlines(data)
        outlines, region = _without_regions(outlines, correction.region)
        found = outlines.categories()
        chosen = chosen_categories(found, correction.categories)
        left = Counter({name: n for name, n in found.items() if name not in chosen})
        if left:
            notes.append(f"left out: {counted(left)}")
        return outlines.labels(shape, chosen), region

    labels, region = naming(path, draw)
    return labels, region, notes


def _label_image(path: Path, shape: tuple[int, int]) -> NDArray[np.uint32]:
    labels = read_labels(path)
    if labels.shape != shape:
        raise InvalidData(
            f"{path} is {labels.shape} and its image is {shape} pixels; expected the same size"
        )
    naming(path, lambda: check_label_image(labels))
    return labels


def _of_json(document: object, image: Path) -> Outlines:
    listed = coco_images(document)
    if listed is not None:
        return _of_coco(listed, image)
    found = geojson_outlines(document)
    if found is not None:
        return found
    drawn = labelme_image(document)
    if drawn is not None:
        return drawn.outlines
    raise InvalidData(f"it holds no outlines (as `json` of `nuclei segment`); expected {TRUTHS}")


def _of_coco(listed: Sequence[CocoImage], image: Path) -> Outlines:
    """The outlines of the only image, or of the one of this name."""
    fitting = [one for one in listed if Path(one.file_name).name == image.name]
    if len(listed) == 1:
        fitting = list(listed)
    if len(fitting) != 1:
        raise InvalidData(
            f"it lists {len(listed)} images, {len(fitting)} of them called {image.name}; expected "
            "one: name the image as the file does"
        )
    return fitting[0].outlines


def _without_regions(outlines: Outlines, region: Region | None) -> tuple[Outlines, Region | None]:
    """QuPath's annotations around detections are where nuclei were looked for, and no nuclei."""
    around = [one for one in outlines.objects if one.category == REGION]
    if not around:
        return outlines, region
    nuclei = tuple(one for one in outlines.objects if one.category != REGION)
    if region is None:
        region = _rectangle(around)
    return Outlines(nuclei, outlines.fractions, outlines.size), region


def _rectangle(around: Sequence[Outline]) -> Region:
    """The region that one rectangular annotation is."""
    polygons = [np.array(ring, float).reshape(-1, 2) for one in around for ring in one.mask]
    corners = polygons[0]
    first, last = corners.min(axis=0), corners.max(axis=0)
    is_rectangle = all(
        np.isin(corners[:, axis], (first[axis], last[axis])).all() for axis in (0, 1)
    )
    if len(polygons) != 1 or not is_rectangle:
        raise InvalidData(
            f"it has {len(around)} annotations around its detections, which are not one rectangle: "
            "where all nuclei are outlined is not clear; give it as --region x,y,width,height, or "
            "remove them"
        )
    x, y = np.round(np.maximum(first, 0)).astype(int).tolist()
    right, bottom = np.round(last).astype(int).tolist()
    return Region(x, y, right - x, bottom - y)


def _doubts(labels: NDArray[np.uint32]) -> list[str]:
    """Whether only a part of the image seems to have been looked at."""
    rows, columns = np.nonzero(labels)
    if not len(rows):
        return ["it has no nucleus, so all of it will be learned as background"]
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    if height * width >= LEAST_EXTENT * labels.size:
        return []
    region = Region(int(columns.min()), int(rows.min()), int(width), int(height))
    return [
        f"all nuclei lie in {region} (x,y,width,height), and what is not outlined will be learned "
        "as background; if the rest was not looked at, add the image with --region"
    ]


def _n_nuclei(labels: NDArray[np.uint32]) -> int:
    return len(np.unique(labels[labels > 0]))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                if None in row or None in row.values():
                    raise InvalidData(f"{path} has rows of different lengths; repair it")
                yield row
    except (OSError, ValueError, csv.Error) as error:
        raise InvalidData(f"{path} cannot be read ({error}); expected a table (CSV)") from error


def _csv(columns: Sequence[str], rows: Sequence[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
