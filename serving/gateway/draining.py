"""What callers are answered when the time for draining is over."""

from nuclei.errors import EngineUnavailable


def stream_ended() -> EngineUnavailable:
    """For a stream: every frame that it received has been answered."""
    return EngineUnavailable("the server is shutting down; connect again in a few seconds")


def frame_given_up() -> EngineUnavailable:
    """For a frame that was not done in time."""
    return EngineUnavailable("the server is shutting down; send the frame again")
