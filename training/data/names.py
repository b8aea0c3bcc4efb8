"""What the names of files say: which image they belong to, and whether they number its nuclei."""

import re
from pathlib import PurePath

from nuclei.imaging.images import FRAME_SUFFIXES

# As ours, Cellpose's (`x_cp_masks.png`), and those of many a script.
_LABEL_NAME = re.compile(r"^(?P<stem>.+?)[._-](cp[._-])?(labels?|masks?)$", re.IGNORECASE)
OVERLAY_SUFFIX = ".overlay"
OME_SUFFIX = ".ome"


def stem_of(file: PurePath) -> str:
    """The name of an image's file without what tells its format: `x` of `x.tif` and `x.ome.tif`."""
    stem = file.stem
    if PurePath(stem).suffix.lower() in FRAME_SUFFIXES:  # QuPath's x.tif.geojson
        stem = PurePath(stem).stem
    return stem[: -len(OME_SUFFIX)] if stem.lower().endswith(OME_SUFFIX) else stem


def labelled_stem(file: PurePath) -> str | None:
    """The image whose label image this name announces: `x` of `x_labels.tif`, `x_cp_masks.png`."""
    found = _LABEL_NAME.match(stem_of(file))
    return found["stem"] if found else None


def is_image(file: PurePath) -> bool:
    """Whether it is called as an image or a label image, and not as an overlay of ours."""
    suffix = file.suffix.lower()
    return suffix in FRAME_SUFFIXES and not file.stem.lower().endswith(OVERLAY_SUFFIX)
