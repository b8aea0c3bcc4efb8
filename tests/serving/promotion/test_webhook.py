"""Webhooks as MLflow signs them, and as an attacker would."""

from collections.abc import Iterator

import pytest
from mlflow.webhooks.delivery import _generate_hmac_signature
from starlette.testclient import TestClient

from serving.promotion.listener import listener
from serving.promotion.webhook import MAX_BODY_BYTES, MAX_SEEN, WINDOW_S, Verdict, Webhooks

SECRET = "a secret of the test"
NOW = 1_800_000_000
BODY = '{"entity":"model_version_alias","action":"created","data":{"name":"../../etc"}}'


class Caller:
    """Sends webhooks to the port of a sync process."""

    def __init__(self) -> None:
        self.now = float(NOW)
        self.woken = 0
        webhooks = Webhooks(SECRET, lambda: self.now)
        self.client = TestClient(listener(webhooks, self.wake, lambda: {"ok": True}, str))

    def wake(self) -> None:
        self.woken += 1

    def send(
        self,
        identity: str = "id-1",
        at: int | str = NOW,
        secret: str = SECRET,
        body: str = BODY,
        sent: str | None = None,
    ) -> int:
        """Status of the answer; `sent` is a body other than the signed one."""
        signature = _generate_hmac_signature(secret, identity, str(at), body)
        headers = {
            "X-MLflow-Delivery-Id": identity,
            "X-MLflow-Timestamp": str(at),
            "X-MLflow-Signature": signature,
        }
        return self.client.post("/webhook", content=sent or body, headers=headers).status_code


@pytest.fixture
def caller() -> Caller:
    return Caller()


def test_a_signed_webhook_asks_for_a_round(caller: Caller) -> None:
    assert caller.send() == 202
    assert caller.woken == 1


def test_a_replay_is_refused_and_another_delivery_taken(caller: Caller) -> None:
    assert caller.send() == 202
    assert caller.send() == 409
    assert caller.send("id-2") == 202
    assert caller.woken == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"secret": "another secret, of another"},
        {"sent": BODY.replace("created", "deleted")},
        {"identity": ""},
        {"identity": "x" * 10_000},
    ],
)
def test_what_is_not_signed_by_the_registry_is_refused(caller: Caller, changed: dict) -> None:
    assert caller.send(**changed) == 401
    assert caller.woken == 0


def test_a_webhook_without_signature_is_refused(caller: Caller) -> None:
    assert caller.client.post("/webhook", content=BODY).status_code == 401


@pytest.mark.parametrize("at", [NOW - WINDOW_S - 1, NOW + WINDOW_S + 1, "yesterday", "-1"])
def test_an_old_or_impossible_time_is_refused(caller: Caller, at: float | str) -> None:
    at = at if isinstance(at, str) else int(at)
    assert caller.send(at=at) == 401
    assert caller.woken == 0


def test_a_replay_is_refused_as_long_as_its_time_is_not_old(caller: Caller) -> None:
    ahead = int(NOW + WINDOW_S)
    assert caller.send(at=ahead) == 202
    caller.now = ahead + WINDOW_S
    assert caller.send(at=ahead) == 409


def test_a_huge_body_is_not_read_to_its_end(caller: Caller) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 1024 + 2):
            yield b" " * 1024

    assert caller.client.post("/webhook", content=parts()).status_code == 413
    assert caller.woken == 0


def test_the_memory_of_replays_is_bounded() -> None:
    webhooks = Webhooks(SECRET, lambda: float(NOW))

    def judge(identity: str) -> Verdict:
        signature = _generate_hmac_signature(SECRET, identity, str(NOW), BODY)
        names = ("delivery-id", "timestamp", "signature")
        values = (identity, str(NOW), signature)
        headers = {f"x-mlflow-{n}": v for n, v in zip(names, values, strict=True)}
        return webhooks.judge(headers, BODY.encode())

    verdicts = [judge(f"id-{number}") for number in range(MAX_SEEN + 1)]
    assert verdicts[-2:] == [Verdict.TAKEN, Verdict.CROWDED]


def test_without_a_secret_no_webhook_is_taken() -> None:
    client = TestClient(listener(None, lambda: pytest.fail("woken"), dict, str))
    assert client.post("/webhook", content=BODY).status_code == 404


def test_the_port_shows_metrics_and_state(caller: Caller) -> None:
    assert "nuclei_sync_champion_version" in caller.client.get("/metrics").text
    assert caller.client.get("/state").json() == {"ok": True}
