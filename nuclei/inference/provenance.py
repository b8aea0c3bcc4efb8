"""What a model was made from: the data sets that it learned from, and their licences."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import Field

from nuclei.postprocessing.parameters import CHECKED

# What a licence says of data whose licence nobody named, SPDX.
DATA_NOT_STATED = "LicenseRef-data-not-stated"
AND = " AND "

Word = Annotated[str, Field(max_length=1024)]
Counts = Annotated[Mapping[Word, Annotated[int, Field(ge=0)]], Field(max_length=64)]


@dataclass(frozen=True)
class DataSet:
    """A data set that a model learned from; the images that were held out count, too.

    Attributes:
        name: of its folder or zip.
        licence: of its images and masks, SPDX.
        citation: how its authors ask to be cited; empty when it is not known.
        images, nuclei: how many it has, by modality.
    """

    __pydantic_config__: ClassVar = CHECKED

    name: Word
    licence: Word = DATA_NOT_STATED
    citation: Word = ""
    images: Counts = field(default_factory=dict)
    nuclei: Counts = field(default_factory=dict)


def all_of(licences: Iterable[str]) -> str:
    """The licence of what falls under all of these, SPDX; each part is named once."""
    return AND.join(dict.fromkeys(part for one in licences for part in one.split(AND)))
