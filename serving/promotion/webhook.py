"""MLflow's webhooks: a hint to look at the registry now. What they say is not used.

MLflow signs `id.timestamp.body` with HMAC-SHA256. A request counts when its signature fits, it is
not older than `WINDOW_S`, and its id was not seen before.
"""

import base64
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from enum import StrEnum

MAX_BODY_BYTES = 2**16
# Of the clocks of two machines, and MLflow's tries again.
WINDOW_S = 300.0
MAX_SEEN = 10_000

ID, TIMESTAMP, SIGNATURE = "x-mlflow-delivery-id", "x-mlflow-timestamp", "x-mlflow-signature"
_VERSION = "v1,"
_HEADER_CHARACTERS = 256


class Verdict(StrEnum):
    """What becomes of a request."""

    TAKEN = "taken"
    FORGED = "forged"
    OLD = "old"
    REPLAYED = "replayed"
    CROWDED = "crowded"


class Webhooks:
    """Judges requests; remembers those of the last minutes."""

    def __init__(self, secret: str, clock: Callable[[], float] = time.time) -> None:
        """Args: secret: as MLflow has it; clock: seconds since 1970."""
        self._secret = secret.encode()
        self._clock = clock
        self._seen: OrderedDict[str, float] = OrderedDict()

    def judge(self, headers: Mapping[str, str], body: bytes) -> Verdict:
        """Judge a request.

        Args:
            headers: with names in small letters.
            body: at most `MAX_BODY_BYTES`.
        """
        identity, timestamp = headers.get(ID, ""), headers.get(TIMESTAMP, "")
        if not self._is_signed(identity, timestamp, headers.get(SIGNATURE, ""), body):
            return Verdict.FORGED
        now = self._clock()
        if not timestamp.isdecimal() or abs(now - int(timestamp)) > WINDOW_S:
            return Verdict.OLD
        return self._once(identity, now)

    def _is_signed(self, identity: str, timestamp: str, signature: str, body: bytes) -> bool:
        if not identity or max(map(len, (identity, timestamp, signature))) > _HEADER_CHARACTERS:
            return False
        signed = f"{identity}.{timestamp}.".encode() + body
        digest = hmac.new(self._secret, signed, hashlib.sha256).digest()
        expected = _VERSION + base64.b64encode(digest).decode()
        return hmac.compare_digest(signature.encode(), expected.encode())

    def _once(self, identity: str, now: float) -> Verdict:
        # A time stamp may lie in the future by as much as in the past.
        while self._seen and now - next(iter(self._seen.values())) > 2 * WINDOW_S:
            self._seen.popitem(last=False)
        if identity in self._seen:
            return Verdict.REPLAYED
        if len(self._seen) >= MAX_SEEN:
            return Verdict.CROWDED
        self._seen[identity] = now
        return Verdict.TAKEN
