"""What is logged and reported about a request, whatever happens inside."""

import asyncio
import logging

import pytest
from prometheus_client.openmetrics import parser as openmetrics_parser

from nuclei.errors import EngineUnavailable, InternalError, InvalidImage, NucleiError
from serving.gateway import metrics
from serving.gateway.observation import observed

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "serving.gateway")
    return caplog


def test_unexpected_error_is_detailed_only_in_the_log(log: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InternalError) as raised, observed("http"):
        raise KeyError("/secret/path")
    assert "secret" not in str(raised.value)
    assert "secret" in log.text
    assert "protocol=http code=INTERNAL" in log.text


@pytest.mark.parametrize(
    ("error", "level"),
    [(InvalidImage("bad"), logging.INFO), (EngineUnavailable("gone"), logging.WARNING)],
)
def test_failures_of_the_service_are_warnings(
    log: pytest.LogCaptureFixture, error: NucleiError, level: int
) -> None:
    with pytest.raises(type(error)), observed("grpc"):
        raise error
    (record,) = log.records
    assert record.levelno == level
    assert f"error={type(error).__name__}" in record.getMessage()


def test_cancelled_request_is_logged_as_such(log: pytest.LogCaptureFixture) -> None:
    with pytest.raises(asyncio.CancelledError), observed("grpc"):
        raise asyncio.CancelledError
    assert "code=CANCELLED" in log.text


def test_detail_of_many_lines_stays_on_one(log: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InvalidImage), observed("grpc"):
        raise InvalidImage("one\ntwo code=OK")
    assert "\n" not in log.records[0].getMessage()


@pytest.mark.parametrize("request_id", ["", "frame-1", "x" * 128])
def test_exemplars_name_the_request_as_far_as_there_is_room(request_id: str) -> None:
    with observed("grpc") as observation:
        observation.graph, observation.request_id = f"exemplar-{len(request_id)}", request_id
    text = metrics.exposition(OPENMETRICS)[0].decode()
    exemplars = [
        sample.exemplar.labels
        for family in openmetrics_parser.text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("model") == observation.graph and sample.exemplar
    ]
    named = request_id == "frame-1"
    assert exemplars == ([{"request_id": request_id}] if named else [])
