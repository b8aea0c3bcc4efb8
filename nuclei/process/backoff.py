"""How long to wait before something that failed is tried again."""

_FIRST_S = 0.5
_MOST_S = 8.0
_HEALTHY_S = 10.0


class Backoff:
    """No wait after a healthy time; then one that doubles with each failure, up to a cap.

    Attributes:
        attempt: failures since the last healthy time.
    """

    def __init__(self) -> None:
        self.attempt = 0

    def failed(self, healthy_s: float) -> float:
        """Count a failure.

        Args:
            healthy_s: how long all was well before it, seconds.

        Returns:
            Seconds to wait before the next try.
        """
        self.attempt = 1 if healthy_s >= _HEALTHY_S else self.attempt + 1
        if self.attempt == 1:
            return 0.0
        return min(_FIRST_S * 2.0 ** (self.attempt - 2), _MOST_S)
