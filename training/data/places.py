"""Where images and their truth lie.

An image and its truth have the same place: the same folders, without the last one that is called
`images`, `masks` or `labels`, and the same name, without what makes it the name of a label image.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from urllib.parse import unquote, urlsplit

from nuclei.errors import InvalidData
from training.data.kaggle import IMAGES_FOLDER, kaggle_images
from training.data.names import is_image, labelled_stem, stem_of

LABEL_FOLDERS = ("masks", "labels")
ROLE_FOLDERS = (IMAGES_FOLDER, *LABEL_FOLDERS)
# A list of images in one of these is about the images in the folders beside it.
LIST_FOLDERS = ("annotations", *LABEL_FOLDERS)

# The folders and the name that an image shares with its truth.
Place = tuple[PurePosixPath, str]


class Images:
    """The images and label images of a data set.

    Attributes:
        plain: the images at each place; one where all is well.
        numbered: the label images at each place.
        kaggle: the images with a folder of their own, and the mask of each of their nuclei.
    """

    def __init__(self, names: Sequence[PurePosixPath]) -> None:
        images = [name for name in names if is_image(name)]
        self.kaggle: Mapping[PurePosixPath, Sequence[PurePosixPath]] = dict(kaggle_images(images))
        in_kaggle = {*self.kaggle, *(mask for masks in self.kaggle.values() for mask in masks)}
        self.plain: dict[Place, list[PurePosixPath]] = {}
        self.numbered: dict[Place, list[PurePosixPath]] = {}
        for name in images:
            if name not in in_kaggle:
                is_truth = role(name) in LABEL_FOLDERS or labelled_stem(name) is not None
                places = self.numbered if is_truth else self.plain
                places.setdefault(_place(name), []).append(name)
        self._by_name: dict[str, list[PurePosixPath]] = defaultdict(list)
        for image in self:
            self._by_name[image.name].append(image)

    def __iter__(self) -> Iterator[PurePosixPath]:
        yield from self.kaggle
        for images in self.plain.values():
            yield from images

    def place(self, image: PurePosixPath) -> Place:
        if image in self.kaggle:
            return image.parent.parent.parent, stem_of(image)
        return _place(image)

    def beside(self, truth: PurePosixPath) -> PurePosixPath | None:
        """The image at the place of a truth."""
        return next(iter(self.plain.get(_place(truth), ())), None)

    def listed(self, path: str, file: PurePosixPath) -> PurePosixPath:
        """The image that a file lists by a path: below its folder, or in a folder beside that.

        Of a path of another machine, or of a URL, the end counts.

        Raises:
            InvalidData: there is no such image, several fit as well, or it is no URL.
        """
        home = file.parent.parent if file.parent.name.lower() in LIST_FOLDERS else file.parent
        parts, elsewhere = _parts(path)
        fits = {
            image: _common_end(image.parts, parts)
            for image in self._by_name[parts[-1] if parts else ""]
            if image.is_relative_to(home)
        }
        needed = 1 if elsewhere else len(parts)
        best = max((n for n in fits.values() if n >= needed), default=None)
        fitting = [image for image, n in fits.items() if n == best]
        if (exact := home.joinpath(*parts)) in fitting:
            return exact
        if not fitting:
            raise InvalidData(f"lists {path}, and there is no such image; add it")
        if len(fitting) > 1:
            raise InvalidData(
                f"lists {path}, which may be {fitting[0]} or {fitting[1]}; list more of its path"
            )
        return fitting[0]


def role(name: PurePosixPath) -> str | None:
    """The last folder of a path that says what is in it: images, masks or labels."""
    folders = (part.lower() for part in reversed(name.parent.parts))
    return next((folder for folder in folders if folder in ROLE_FOLDERS), None)


def _place(name: PurePosixPath) -> Place:
    folders = list(name.parent.parts)
    for index in reversed(range(len(folders))):
        if folders[index].lower() in ROLE_FOLDERS:
            del folders[index]
            break
    is_plain = is_image(name) and role(name) == IMAGES_FOLDER
    stem = stem_of(name) if is_plain else labelled_stem(name) or stem_of(name)
    return PurePosixPath(*folders), stem


def _parts(path: str) -> tuple[tuple[str, ...], bool]:
    """The parts of a listed path, and whether it is one of another machine or a URL."""
    if "://" in path:
        try:
            place = urlsplit(path).path
        except ValueError as error:
            raise InvalidData(f"lists {path}, which is no URL ({error}); correct it") from error
        return tuple(PurePosixPath(unquote(place)).parts[1:]), True
    windows = PureWindowsPath(path)  # which also understands slashes
    parts = tuple(part for part in windows.parts if part not in (windows.anchor, ".."))
    return parts, bool(windows.anchor)


def _common_end(first: Sequence[str], second: Sequence[str]) -> int:
    n = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        n += 1
    return n
