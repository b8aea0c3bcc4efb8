"""What the data sets of a training are: their licences, citations, images."""

from collections.abc import Sequence

from nuclei.inference.provenance import DATA_NOT_STATED, DataSet, all_of
from training.data.catalog import recognised
from training.data.dataset import Sample, summary


def data_sets(samples: Sequence[Sample], licence: str) -> tuple[DataSet, ...]:
    """The data sets of images, in their order.

    A licence is that of the public data set that the images are (`training.data.catalog`), or else
    what the manifest says of each image, or else the one that is given.

    Args:
        samples: all of each data set.
        licence: of images of which nothing else is known, SPDX; empty when it is not stated.
    """
    return tuple(
        _data_set([one for one in samples if one.source == source], source, licence)
        for source in dict.fromkeys(sample.source for sample in samples)
    )


def _data_set(samples: Sequence[Sample], name: str, licence: str) -> DataSet:
    counts = summary(samples)
    known = recognised(samples)
    stated = licence or DATA_NOT_STATED
    return DataSet(
        name,
        known.licence if known else all_of(sample.licence or stated for sample in samples),
        known.citation if known else "",
        {modality: images for modality, (images, _) in counts.items()},
        {modality: nuclei for modality, (_, nuclei) in counts.items()},
    )
