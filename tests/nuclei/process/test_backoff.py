"""How long to wait before the next try."""

from nuclei.process.backoff import Backoff


def test_it_doubles_up_to_a_cap_and_restarts_after_a_healthy_time() -> None:
    backoff = Backoff()
    waits = [backoff.failed(healthy_s=1.0) for _ in range(8)]
    assert waits == [0, 0.5, 1, 2, 4, 8, 8, 8]
    assert backoff.attempt == 8
    assert backoff.failed(healthy_s=10.0) == 0
    assert backoff.attempt == 1
