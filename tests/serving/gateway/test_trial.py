"""What a gateway finds out about a challenger."""

import pytest

from nuclei.inference.contract import Contract
from nuclei.inference.engine import ServedVersion
from serving.gateway.bounds import Bounds
from serving.gateway.trial import Trial


@pytest.fixture
def trial() -> Trial:
    champion, challenger = (
        ServedVersion("unet", version, f"unet.{version}", Contract("unet")) for version in "34"
    )
    return Trial(champion, challenger, Bounds(0.02, 2.0, 0.5, 20))


def test_a_frame_with_little_time_is_left_to_the_champion(trial: Trial) -> None:
    # Nothing is known of the champion yet.
    assert trial.leaves_time(1.0, 0.1)
    for _ in range(10):
        trial.note_champion(100.0)
    assert trial.leaves_time(1.0, None)
    assert trial.leaves_time(1.0, 0.25)
    assert not trial.leaves_time(1.0, 0.15)
    assert not trial.leaves_time(2.0, 0.25)
