import time

import pytest

from nuclei.errors import DeadlineExceeded
from nuclei.inference.deadline import NEVER, Deadline


def test_never() -> None:
    assert Deadline.after(None) == NEVER
    assert NEVER.left_s() is None
    NEVER.check("at once")


def test_time_left() -> None:
    deadline = Deadline.after(60)
    left_s = deadline.left_s()
    assert left_s is not None
    assert 59 < left_s <= 60
    deadline.check("at once")


@pytest.mark.parametrize("seconds", [0, -1])
def test_time_that_has_run_out(seconds: float) -> None:
    deadline = Deadline(time.monotonic() + seconds)
    assert deadline.left_s() == 0
    with pytest.raises(DeadlineExceeded, match="ran out before the tile; allow more"):
        deadline.check("before the tile")
