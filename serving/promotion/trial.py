"""The trial of a challenger, as the gateways report it: is a phase over, was it ended, what to log.

A gateway counts since it began the trial, over all phases. So the counts of a phase are differences
from what the gateway said when the phase began; one that was not asked then counts from when it
was first asked, which makes a phase longer and never shorter.
"""

import logging
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import httpx
from pydantic import ValidationError

from nuclei.quoting import sentence
from serving.logs import Event
from serving.promotion.state import Rollout
from serving.rollout_report import MAX_REPORT_BYTES, PATH, ModelRollout, RolloutReport, WorstFrame

logger = logging.getLogger(__name__)

_ANSWER_S = 5.0


@dataclass(frozen=True)
class Judgement:
    """What the gateways say of a phase.

    Attributes:
        frames: of the challenger in this phase.
        aborted: why a gateway ended the trial; empty while it runs.
        figures: to log, by name.
        worst: the frames on which the two agree least.
    """

    frames: int = 0
    aborted: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    worst: list[WorstFrame] = field(default_factory=list)


class Gateways:
    """Asks gateways for their reports."""

    def __init__(self, urls: Sequence[str], token: str, tls: ssl.SSLContext | None) -> None:
        """Describe them; nothing is sent yet.

        Args:
            urls: `http://host:port` of each; a host with several addresses, such as a headless
                Service of Kubernetes, stands for a gateway at each.
            token: "" for none.
            tls: None trusts the authorities of this machine.
        """
        self._urls = urls
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._tls = tls

    @property
    def known(self) -> bool:
        """Whether there is any to ask."""
        return bool(self._urls)

    def reports(self) -> list[RolloutReport]:
        """Of those that answer; all addresses of a name are asked, and each gateway counts once."""
        found = (report for url in self._urls for report in self._of_name(url))
        return list({report.gateway: report for report in found}.values())

    def _of_name(self, url: str) -> Iterator[RolloutReport]:
        try:
            name = httpx.URL(url)
            addresses = socket.getaddrinfo(name.host, name.port, type=socket.SOCK_STREAM)
        except (httpx.InvalidURL, OSError, UnicodeError) as error:
            logger.warning(Event("no_report", gateway=url, why=sentence(error)))
            return
        for host in dict.fromkeys(str(address[0]) for *_, address in addresses):
            report = self._report(name, name.copy_with(host=host))
            if report is not None:
                yield report

    def _report(self, name: httpx.URL, address: httpx.URL) -> RolloutReport | None:
        try:
            with (
                httpx.Client(
                    verify=self._tls or True,
                    timeout=_ANSWER_S,
                    headers={**self._headers, "Host": name.netloc.decode()},
                    trust_env=False,
                ) as client,
                client.stream(
                    "GET", address.join(PATH), extensions={"sni_hostname": name.host}
                ) as answer,
            ):
                answer.raise_for_status()
                return RolloutReport.model_validate_json(_bounded(answer))
        except (httpx.HTTPError, httpx.InvalidURL, ValidationError, ValueError) as error:
            logger.warning(Event("no_report", gateway=str(address), why=sentence(error)))
            return None


def _bounded(answer: httpx.Response) -> bytes:
    body = bytearray()
    for part in answer.iter_bytes():
        body += part
        if len(body) > MAX_REPORT_BYTES:
            raise ValueError(f"the report has more than {MAX_REPORT_BYTES} bytes")
    return bytes(body)


class Trial:
    """Follows one rollout through its phases."""

    def __init__(self) -> None:
        self._rollout: Rollout | None = None
        self._began: dict[tuple[str, float], int] = {}

    def judge(
        self, rollout: Rollout, family: str, champion: int, reports: Sequence[RolloutReport]
    ) -> Judgement:
        """Judge the phase under way.

        Args:
            rollout: as the registry has it.
            family: of its model.
            champion: that answers meanwhile.
            reports: of the gateways.
        """
        if rollout != self._rollout:
            self._rollout, self._began = rollout, {}
        found = list(_about(reports, family, champion, rollout.version))
        frames = sum(self._in_phase(rollout, gateway, each) for gateway, each in found)
        aborted = [each.reason for _, each in found if each.verdict == "aborted"]
        return Judgement(
            frames,
            aborted[0] or "a gateway ended it" if aborted else "",
            _figures([each for _, each in found]),
            sorted((w for _, each in found for w in each.worst), key=lambda w: w.agreement),
        )

    def _in_phase(self, rollout: Rollout, gateway: str, report: ModelRollout) -> int:
        count = _count(rollout, report)
        # A trial that began after the phase did has nothing of the phase before.
        new = report.since >= rollout.since.timestamp()
        return count - self._began.setdefault((gateway, report.since), 0 if new else count)


def _about(
    reports: Sequence[RolloutReport], family: str, champion: int, challenger: int
) -> Iterator[tuple[str, ModelRollout]]:
    for report in reports:
        for each in report.models:
            if (each.model, each.champion, each.challenger) == (family, champion, challenger):
                yield report.gateway, each


def _count(rollout: Rollout, report: ModelRollout) -> int:
    if rollout.current.mode == "shadow":
        return report.shadow.compared + report.shadow.failed
    return report.canary.answered + report.canary.failed


def _figures(reports: Sequence[ModelRollout]) -> dict[str, float]:
    """Counts of all gateways; of rates, times and agreements the worst gateway's."""
    if not reports:
        return {}
    shadows, canaries = [each.shadow for each in reports], [each.canary for each in reports]
    figures = {
        "shadow_compared": float(sum(each.compared for each in shadows)),
        "shadow_failed": float(sum(each.failed for each in shadows)),
        "shadow_dropped": float(sum(sum(each.dropped.values()) for each in shadows)),
        "shadow_champion_nuclei": float(sum(each.champion_nuclei for each in shadows)),
        "shadow_challenger_nuclei": float(sum(each.challenger_nuclei for each in shadows)),
        "shadow_error_rate": max(each.error_rate for each in shadows),
        "shadow_champion_tile_ms_p50": max(each.champion_tile_ms.p50 for each in shadows),
        "shadow_challenger_tile_ms_p50": max(each.challenger_tile_ms.p50 for each in shadows),
        "canary_answered": float(sum(each.answered for each in canaries)),
        "canary_failed": float(sum(each.failed for each in canaries)),
        "canary_error_rate": max(each.error_rate for each in canaries),
        "canary_champion_ms_p50": max(each.champion_ms.p50 for each in canaries),
        "canary_challenger_ms_p50": max(each.challenger_ms.p50 for each in canaries),
    }
    agreements = [each.agreement.mean for each in shadows if each.agreement.mean is not None]
    if agreements:
        figures["shadow_agreement_ap50"] = min(agreements)
    return figures
