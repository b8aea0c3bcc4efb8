"""Rollouts that gateways report about: phases, the new champion, aborts, the run in MLflow."""

import base64
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nuclei.errors import InvalidOption
from nuclei.process.ports import LOOPBACK, free_ports
from serving.promotion.changes import promote, record_gates, report_status
from serving.promotion.rollouts import RUN_TAG, Rollouts
from serving.promotion.state import ABORTED_TAG, Gates, Phase, SyncStatus
from serving.promotion.trial import Gateways
from serving.rollout_report import (
    MAX_REPORT_BYTES,
    PATH,
    Agreement,
    Canary,
    Latency,
    ModelRollout,
    RolloutReport,
    Shadow,
    WorstFrame,
)
from tests.serving.promotion.registries import MODEL, Filled

PNG = b"\x89PNG of a frame"
PHASES = (
    Phase(mode="shadow", fraction=0.1, frames=10),
    Phase(mode="canary", fraction=0.5, frames=5),
)


class FakeGateway:
    """Answers `GET /v1/rollout` as it is told."""

    def __init__(self, host: str = LOOPBACK, port: int = 0) -> None:
        self.compared = self.answered = 0
        self.aborted = ""
        self.since = time.time() + 3600
        self.name = "0" * 32
        self.body: bytes | None = None
        self.token = ""
        gateway = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                gateway.token = self.headers.get("Authorization", "")
                body = gateway.body or gateway.report().model_dump_json().encode()
                self.send_response(200 if self.path == PATH else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *given: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer((host, port), Handler)
        self.url = f"http://{host}:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def report(self) -> RolloutReport:
        times = Latency(frames=1, p50=10, p90=11, p99=12)
        worst = WorstFrame(
            request_id="r",
            at=0,
            agreement=0.5,
            champion_nuclei=2,
            challenger_nuclei=3,
            png=base64.b64encode(PNG).decode(),
        )
        shadow = Shadow(
            fraction=0.1,
            chosen=self.compared,
            compared=self.compared,
            failed=0,
            dropped={},
            error_rate=0,
            agreement=Agreement(frames=self.compared, mean=0.9),
            champion_nuclei=20,
            challenger_nuclei=21,
            champion_tile_ms=times,
            challenger_tile_ms=times,
        )
        canary = Canary(
            fraction=0.5,
            answered=self.answered,
            failed=0,
            error_rate=0,
            champion_ms=times,
            challenger_ms=times,
        )
        rollout = ModelRollout(
            model="unet",
            champion=1,
            challenger=2,
            since=self.since,
            verdict="aborted" if self.aborted else "running",
            reason=self.aborted,
            shadow=shadow,
            canary=canary,
            worst=[worst],
        )
        return RolloutReport(gateway=self.name, models=[rollout])


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    fake = FakeGateway()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


@pytest.fixture
def rollout(filled: Filled) -> Filled:
    """A registry in which version 2 is tried beside 1."""
    promote(filled.registry, MODEL, 1)
    promote(filled.registry, MODEL, 2, PHASES)
    return filled


def follow(filled: Filled, *gateways: FakeGateway, rollouts: Rollouts | None = None) -> Rollouts:
    """A look at the rollout, by a process that remembers the looks before."""
    urls = [gateway.url for gateway in gateways]
    rollouts = rollouts or Rollouts(filled.registry, Gateways(urls, "secret", None), "here")
    rollouts.follow(filled.state(), "unet")
    return rollouts


def test_phases_follow_each_other_and_the_challenger_becomes_champion(
    rollout: Filled, gateway: FakeGateway, tmp_path: Path
) -> None:
    process = follow(rollout, gateway)
    assert rollout.state().rollout.phase == 0
    gateway.compared = 10
    follow(rollout, rollouts=process)
    assert rollout.state().rollout.phase == 1
    gateway.answered = 4
    follow(rollout, rollouts=process)
    assert rollout.aliases() == {"champion": 1, "challenger": 2}
    gateway.answered = 5
    follow(rollout, rollouts=process)
    assert rollout.aliases() == {"champion": 2}
    assert rollout.state().rollout is None
    assert gateway.token == "Bearer secret"
    run = rollout.registry.model(MODEL).versions[-2].tags[RUN_TAG]
    metrics = rollout.client.get_run(run).data.metrics
    assert metrics["shadow_agreement_ap50"] == pytest.approx(0.9)
    assert metrics["canary_answered"] == 5
    pictures = rollout.client.list_artifacts(run, "worst")
    assert len(pictures) == 2, "one a phase"
    assert (
        Path(rollout.client.download_artifacts(run, pictures[0].path, str(tmp_path))).read_bytes()
        == PNG
    )


def test_an_abort_of_a_gateway_becomes_durable(rollout: Filled, gateway: FakeGateway) -> None:
    gateway.aborted = "its agreement is 0.31; expected at least 0.7"
    follow(rollout, gateway)
    assert rollout.aliases() == {"champion": 1}
    state = rollout.state()
    assert state.rollout is None
    assert state.find(2).aborted == gateway.aborted
    assert state.changes[-1].change.action == "abort"


def test_frames_of_all_gateways_count_and_a_process_that_restarts_counts_no_frame_twice(
    rollout: Filled, gateway: FakeGateway
) -> None:
    since = rollout.state().rollout.since
    gateway.since = (since - timedelta(hours=1)).timestamp()
    gateway.compared = 1000
    process = follow(rollout, gateway)
    assert rollout.state().rollout.phase == 0, "they may be of an earlier phase"
    gateway.compared = 1009
    follow(rollout, rollouts=process)
    assert rollout.state().rollout.phase == 0
    gateway.compared = 1010
    follow(rollout, rollouts=process)
    assert rollout.state().rollout.phase == 1


def test_an_abort_that_was_cut_off_is_completed(rollout: Filled, gateway: FakeGateway) -> None:
    rollout.registry.set_tags(MODEL, {ABORTED_TAG: "worse"}, 2)
    follow(rollout, gateway)
    assert rollout.aliases() == {"champion": 1}
    assert rollout.state().rollout is None


def test_a_challenger_whose_gates_no_longer_pass_is_taken_back(
    rollout: Filled, gateway: FakeGateway
) -> None:
    process = follow(rollout, gateway)
    gateway.compared = 10
    follow(rollout, rollouts=process)
    record_gates(rollout.registry, MODEL, 2, Gates(verdict="refused", reason="worse", digest="0"))
    gateway.answered = 5
    follow(rollout, rollouts=process)
    assert rollout.aliases() == {"champion": 1}
    assert "the gates refused" in rollout.state().find(2).aborted


def live(filled: Filled, instance: str, judges: bool) -> None:
    """A sync process says that it is there."""
    now = datetime.now(UTC)
    status = SyncStatus(loaded={1: now}, champion=1, judges=judges, at=now)
    report_status(filled.registry, filled.state(), instance, status)


def test_a_process_without_gateways_leaves_a_rollout_to_one_that_has_some(
    rollout: Filled, gateway: FakeGateway
) -> None:
    live(rollout, "first", judges=False)
    live(rollout, "here", judges=True)
    blind = Rollouts(rollout.registry, Gateways((), "", None), "first")
    assert not blind.follow(rollout.state(), "unet")
    gateway.compared = 10
    follow(rollout, gateway)
    assert rollout.state().rollout.phase == 1


def test_of_two_processes_with_gateways_the_first_moves_on_and_each_aborts(
    rollout: Filled, gateway: FakeGateway
) -> None:
    live(rollout, "first", judges=True)
    gateway.compared = 10
    process = follow(rollout, gateway)
    assert rollout.state().rollout.phase == 0
    gateway.aborted = "its agreement is 0.31; expected at least 0.7"
    follow(rollout, rollouts=process)
    assert rollout.state().rollout is None
    assert rollout.state().find(2).aborted == gateway.aborted


def test_a_rollout_that_nobody_can_judge_is_said(rollout: Filled) -> None:
    live(rollout, "first", judges=False)
    blind = Rollouts(rollout.registry, Gateways((), "", None), "here")
    with pytest.raises(InvalidOption, match="NUCLEI_GATEWAYS"):
        blind.follow(rollout.state(), "unet")
    assert rollout.aliases() == {"champion": 1, "challenger": 2}


@pytest.mark.parametrize("body", [b"no report", b"{}", b" " * (MAX_REPORT_BYTES + 1)])
def test_a_report_that_is_none_moves_nothing(
    rollout: Filled, gateway: FakeGateway, body: bytes
) -> None:
    gateway.body = body
    follow(rollout, gateway)
    assert rollout.state().rollout.phase == 0


def test_a_name_stands_for_the_gateways_at_all_of_its_addresses(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = gateway.server.server_port
    other = FakeGateway("127.0.0.2", port)
    other.name = "1" * 32
    resolve = socket.getaddrinfo

    def resolved(host: str, *given: object, **named: object) -> list[tuple[object, ...]]:
        hosts = [LOOPBACK, "127.0.0.2"] if host == "gateway-pods" else [host]
        return [entry for each in hosts for entry in resolve(each, *given, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    url = f"http://gateway-pods:{port}"
    try:
        reports = Gateways([url, url], "secret", None).reports()
        assert [report.gateway for report in reports] == [gateway.name, other.name]
        assert gateway.token == other.token == "Bearer secret"
    finally:
        other.server.shutdown()
        other.server.server_close()
    assert [report.gateway for report in Gateways([url], "", None).reports()] == [gateway.name]


def test_a_gateway_that_does_not_answer_moves_nothing(rollout: Filled) -> None:
    (port,) = free_ports(1)
    gateways = Gateways([f"http://{LOOPBACK}:{port}"], "", None)
    Rollouts(rollout.registry, gateways, "here").follow(rollout.state(), "unet")
    assert rollout.state().rollout.phase == 0
