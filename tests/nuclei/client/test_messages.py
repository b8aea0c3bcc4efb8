"""Replies become results."""

from dataclasses import asdict, fields

import pytest

from nuclei.client.messages import segmentation_of
from nuclei.results.quality import Quality
from nuclei.v1 import segmentation_pb2 as pb


def test_the_message_has_the_fields_of_the_quality() -> None:
    names = [field.name for field in pb.Quality.DESCRIPTOR.fields]
    assert names == [field.name for field in fields(Quality)]


@pytest.mark.parametrize(
    "quality",
    [
        Quality(),
        Quality(focus=0.0, saturated=1 / 3),
        Quality(*(each / 7 for each in range(len(fields(Quality))))),
    ],
)
def test_a_measure_of_zero_is_another_than_an_absent_one(quality: Quality) -> None:
    reply = pb.SegmentResponse(quality=pb.Quality(**asdict(quality)))
    sent = pb.SegmentResponse.FromString(reply.SerializeToString())
    assert segmentation_of(sent).quality == quality


def test_an_old_server_gives_no_quality() -> None:
    assert segmentation_of(pb.SegmentResponse()).quality is None
