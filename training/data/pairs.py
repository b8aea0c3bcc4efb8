"""Which truth belongs to which image of a data set."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import PurePosixPath

from training.data.annotations import Match, json_outlines, yolo_outlines
from training.data.files import Files, is_yolo
from training.data.kaggle import IMAGES_FOLDER
from training.data.names import stem_of
from training.data.places import Images, role
from training.data.truths import (
    LabelImages,
    NoNuclei,
    OutlineFile,
    SingleMasks,
    Truth,
    Unreadable,
)

SPLIT_FOLDERS = ("train", "training", "val", "valid", "validation", "test")


@dataclass(frozen=True)
class Pair:
    """An image and its truth.

    Attributes:
        id: the stem; where several images share it, their folders and the stem.
        stem: name of the image, without its folder and suffix.
        home: the folder that it shares with its truth.
        image: its file.
        truth: its nuclei.
    """

    id: str
    stem: str
    home: PurePosixPath
    image: PurePosixPath
    truth: Truth


@dataclass
class Pairs:
    """What was found in a data set.

    Attributes:
        found: the pairs.
        problems: what has no partner or cannot be understood, with the name of the file.
        notes: what was taken or left out where there was a choice.
    """

    found: list[Pair] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def categories(self) -> Counter[str]:
        """How many objects there are of each category, in all outlines."""
        outlined = (pair.truth for pair in self.found if isinstance(pair.truth, OutlineFile))
        return Counter(
            chain.from_iterable(truth.outlines.categories().elements() for truth in outlined)
        )


def find_pairs(files: Files) -> Pairs:
    """All images of a data set, each with its truth."""
    images, pairs = Images(files.names), Pairs()
    matches: list[Match] = [
        *((image, SingleMasks(masks)) for image, masks in images.kaggle.items() if masks),
        *((images.beside(names[0]), LabelImages(names)) for names in images.numbered.values()),
        *yolo_outlines(files, images, pairs.problems),
        *json_outlines(files, images, pairs.problems),
    ]
    truths: dict[PurePosixPath, list[Truth]] = defaultdict(list)
    for image, truth in matches:
        if image is not None:
            truths[image].append(truth)
        elif isinstance(truth, Unreadable):
            pairs.problems.append(str(truth.error))
        else:
            pairs.problems.append(_without_partner(truth.files[0]))
    chosen = _one_each(truths, pairs)
    alike = _called_alike(images, pairs)
    without = [image for image in images if image not in truths and image not in alike]
    empty = _without_nuclei(files, images, without, pairs)
    chosen |= {image: NoNuclei() for image in empty}
    # A list of images that cannot be understood is one problem, not one for each of its images.
    if not any(image is None and isinstance(truth, Unreadable) for image, truth in matches):
        pairs.problems += [_without_partner(image) for image in without if image not in empty]
    _name(images, chosen, pairs)
    return pairs


def _without_partner(file: PurePosixPath) -> str:
    return f"{stem_of(file)}: {file} has no partner: every image needs a mask, every mask an image"


def _called_alike(images: Images, pairs: Pairs) -> set[PurePosixPath]:
    """The images whose truth would be the same file."""
    alike = [found for found in images.plain.values() if len(found) > 1]
    for first, second, *_ in alike:
        pairs.problems.append(
            f"{stem_of(first)}: two images are called so, {first} and {second}; rename one"
        )
    return {image for found in alike for image in found}


def _one_each(
    truths: Mapping[PurePosixPath, Sequence[Truth]], pairs: Pairs
) -> dict[PurePosixPath, Truth]:
    """The truth of each image: its label image or masks, or else its outlines."""
    chosen: dict[PurePosixPath, Truth] = {}
    left_out: list[PurePosixPath] = []
    for image, found in truths.items():
        pixels = [one for one in found if isinstance(one, LabelImages | SingleMasks)]
        first, *others = pixels or found
        if others:
            both = " and ".join(str(one.files[0]) for one in (first, *others))
            pairs.problems.append(f"{stem_of(image)}: it is outlined in {both}; remove one")
        else:
            chosen[image] = first
            left_out += [one.files[0] for one in found if one is not first]
    if left_out:
        pairs.notes.append(
            f"outlines of images that have label images are left out: {shown(left_out)}"
        )
    return chosen


def _without_nuclei(
    files: Files, images: Images, without: Sequence[PurePosixPath], pairs: Pairs
) -> list[PurePosixPath]:
    """The images that have no nuclei because they have no file where others of their form do."""
    yolo_homes = {images.place(name)[0] for name in files.names if is_yolo(name)}
    has_masks = any(images.kaggle.values())
    yolo, kaggle = [], []
    for image in without:
        if image in images.kaggle:
            if has_masks:
                kaggle.append(image)
        elif role(image) == IMAGES_FOLDER and images.place(image)[0] in yolo_homes:
            yolo.append(image)
    for found, file in ((yolo, "file in labels/"), (kaggle, "mask in masks/")):
        if found:
            pairs.notes.append(f"without a {file}, so without nuclei: {shown(found)}")
    return [*yolo, *kaggle]


def _name(images: Images, chosen: Mapping[PurePosixPath, Truth], pairs: Pairs) -> None:
    """Make the pairs, with an id for each."""
    stems = Counter(images.place(image)[1] for image in chosen)
    for image, truth in chosen.items():
        home, stem = images.place(image)
        name = stem if stems[stem] == 1 else "_".join([*home.parts, stem])
        pairs.found.append(Pair(name, stem, home, image, truth))
    for name, n in Counter(pair.id for pair in pairs.found).items():
        if n > 1:
            pairs.problems.append(f"{name}: {n} images would be called so; rename them")
    renamed = [pair.id for pair in pairs.found if pair.id != pair.stem]
    if renamed:
        pairs.notes.append(
            "images of several folders are called alike; their folders are part of their names "
            f"here: {shown(renamed)}"
        )
    parts = {part.lower() for image in chosen for part in image.parent.parts}
    if len(splits := sorted(parts & set(SPLIT_FOLDERS))) > 1:
        pairs.notes.append(
            f"{' and '.join(splits)} are read as one data set; a training holds out images of its "
            "own choice"
        )


def shown(names: Sequence[object]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}"
