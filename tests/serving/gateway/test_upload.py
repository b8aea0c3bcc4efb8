"""Requests on their way in: what they hold, and how fast they have to come."""

import time

import pytest

from nuclei.errors import DeadlineExceeded, FrameTooLarge, Overloaded
from serving.gateway.admission import Admission
from serving.gateway.upload import PACE_BYTES, PACE_S, Upload

MIB = 2**20


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, for the test to change."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_memory_is_reserved_as_bytes_arrive(clock: list[float]) -> None:
    admission = Admission(4, 4 * MIB, 1)
    with admission.admit("http", "a:1") as permit, admission.admit("http", "b:1") as other:
        upload = Upload(permit)
        upload.arrived(0, 0)
        assert permit.n_bytes == 0
        upload.arrived(3 * MIB, 3 * MIB)
        assert permit.n_bytes == 3 * MIB
        with pytest.raises(Overloaded):
            Upload(other).arrived(2 * MIB, 2 * MIB)
        with pytest.raises(FrameTooLarge):
            upload.arrived(5 * MIB, 5 * MIB)


def test_memory_that_another_request_of_the_connection_had_is_given_back(
    clock: list[float],
) -> None:
    admission = Admission(4, 4 * MIB, 1)
    with admission.admit("grpc", "a:1") as permit, admission.admit("grpc", "b:1") as other:
        upload = Upload(permit)
        upload.arrived(3 * MIB, 3 * MIB)
        upload.arrived(MIB, 3 * MIB)
        assert permit.n_bytes == MIB
        Upload(other).arrived(2 * MIB, 2 * MIB)


def test_request_that_stops_ends(clock: list[float]) -> None:
    admission = Admission(4, 4 * MIB, 1)
    with admission.admit("http", "a:1") as permit:
        upload = Upload(permit)
        for came in range(PACE_BYTES, 4 * PACE_BYTES, PACE_BYTES):
            clock[0] += PACE_S + 1
            upload.arrived(came, came)
        clock[0] += PACE_S / 2
        upload.arrived(came, came)
        clock[0] += PACE_S
        with pytest.raises(DeadlineExceeded, match="without a break"):
            upload.arrived(came + 1, came + 1)
