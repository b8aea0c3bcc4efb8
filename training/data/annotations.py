"""Files of outlines, and the images they are about."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath, PureWindowsPath

from nuclei.errors import InvalidData
from training.data.coco import CocoImage, coco_images
from training.data.documents import parsed_json
from training.data.files import JSON_SUFFIXES, YOLO_CLASSES, Files, is_yolo, naming
from training.data.geojson import geojson_outlines
from training.data.labelme import labelme_image
from training.data.places import Images
from training.data.truths import OutlineFile, Truth, Unreadable
from training.data.yolo import class_names, parse_yolo

# An image, or None where there is none for a truth.
Match = tuple[PurePosixPath | None, Truth]


def yolo_outlines(files: Files, images: Images, problems: list[str]) -> Iterator[Match]:
    """`labels/x.txt` of `images/x.png`; both may have further folders.

    Args:
        problems: receives what is wrong with the names of classes.
    """
    found = [name for name in files.names if is_yolo(name)]
    classes = _yolo_classes(files, problems) if found else {}
    for file in found:
        names = next((classes[folder] for folder in file.parents if folder in classes), {})
        try:
            yield images.beside(file), _yolo_file(files, file, names)
        except InvalidData as error:
            yield images.beside(file), Unreadable(file, error)


def json_outlines(files: Files, images: Images, problems: list[str]) -> Iterator[Match]:
    """COCO's lists of images; GeoJSON and labelme's files, each of one image.

    Args:
        problems: receives the images that are listed and missing.
    """
    for file in files.names:
        if file.suffix.lower() not in JSON_SUFFIXES:
            continue
        try:
            matches = naming(file, partial(_json_file, files, file, images, problems))
        except InvalidData as error:
            matches = [(images.beside(file), Unreadable(file, error))]
        yield from matches


def _yolo_file(files: Files, file: PurePosixPath, classes: Mapping[str, str]) -> OutlineFile:
    text = _text(files, file)
    return OutlineFile(file, naming(file, lambda: parse_yolo(text, classes)))


def _yolo_classes(files: Files, problems: list[str]) -> dict[PurePosixPath, dict[str, str]]:
    """The names of YOLO's classes, by the folder that they are for."""
    classes = {}
    for file in files.names:
        if file.name.lower() in YOLO_CLASSES:
            try:
                text = _text(files, file)
                classes[file.parent] = naming(file, partial(class_names, file.name, text))
            except InvalidData as error:
                problems.append(str(error))
    return classes


def _text(files: Files, file: PurePosixPath) -> str:
    return naming(file, lambda: files.read(file)).decode(errors="replace")


def _json_file(
    files: Files, file: PurePosixPath, images: Images, problems: list[str]
) -> list[Match]:
    document = parsed_json(files.read(file))
    listed = coco_images(document)
    if listed is not None:
        return list(_coco_matches(listed, file, images, problems))
    outlines = geojson_outlines(document)
    if outlines is not None:
        return [(images.beside(file), OutlineFile(file, outlines))]
    drawn = labelme_image(document)
    if drawn is not None:
        image = images.beside(file) or images.listed(drawn.file_name, file)
        return [(image, OutlineFile(file, drawn.outlines))]
    return []


def _coco_matches(
    listed: Sequence[CocoImage], file: PurePosixPath, images: Images, problems: list[str]
) -> Iterator[Match]:
    for entry in listed:
        try:
            yield images.listed(entry.file_name, file), OutlineFile(file, entry.outlines)
        except InvalidData as error:
            problems.append(f"{PureWindowsPath(entry.file_name).stem}: {file} {error}")
