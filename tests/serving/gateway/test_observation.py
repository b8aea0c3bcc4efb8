"""What is logged and reported about a request, whatever happens inside."""

import asyncio
import logging

import pytest

from nuclei.errors import EngineUnavailable, InternalError, InvalidImage, NucleiError
from serving.gateway.observation import observed


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
