"""How long to wait before the next try."""

from serving.process.backoff import Backoff


def test_it_doubles_up_to_a_cap_and_restarts_after_a_healthy_time() -> None:
    backoff = Backoff()
    waits = [backoff.failed(healthy_s=1.0) for _ in range(9)]
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert backoff.attempt == 9
    assert backoff.failed(healthy_s=60.0) == 0.5
    assert backoff.attempt == 1
