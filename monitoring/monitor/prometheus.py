"""What the page asks Prometheus and Alertmanager, over their HTTP APIs."""

import asyncio
import math
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any

import httpx

from nuclei.quoting import sentence

_TIMEOUT_S = 10.0
_AT_ONCE = 8
# `label_values(METRIC, LABEL)`, the query of a variable.
_LABEL_VALUES = re.compile(r"label_values\((.+), *([a-zA-Z_]\w*)\)")


class QueryFailed(Exception):
    """Prometheus refused a query, with its own words."""


class Unreachable(Exception):
    """Prometheus does not answer; says why."""


@dataclass(frozen=True)
class Window:
    """A stretch of time at regular moments.

    Attributes:
        end: the last moment, seconds since 1970.
        seconds: its length.
        step: seconds between two moments.
    """

    end: float
    seconds: int
    step: int

    @property
    def times(self) -> list[float]:
        """Its moments, the oldest first."""
        count = self.seconds // self.step + 1
        return [self.end - self.step * back for back in range(count - 1, -1, -1)]


@dataclass(frozen=True)
class Series:
    """One series of an answer.

    Attributes:
        labels: with the metric's name as `__name__`, where it has one.
        values: one at each moment of the window; NaN where there is none.
    """

    labels: Mapping[str, str]
    values: list[float]


@dataclass(frozen=True)
class Alert:
    """An alert that fires, or is about to.

    Attributes:
        name: of the alert.
        state: `firing` or `pending`.
        severity: its label of that name.
        summary: what is wrong.
        since: when its condition began to hold.
        labels: which tell it from others of the same name.
        suppressed: whether Alertmanager tells nobody, because another alert explains it or somebody
            silenced it.
    """

    name: str
    state: str
    severity: str
    summary: str
    since: datetime
    labels: Mapping[str, str]
    suppressed: bool


@dataclass(frozen=True)
class Target:
    """Something that is scraped; `error` says why that failed, empty where it did not."""

    job: str
    address: str
    up: bool
    error: str


class Prometheus:
    """A Prometheus server. Every method raises Unreachable when it does not answer."""

    def __init__(self, url: str, alertmanager_url: str) -> None:
        """Args: url: of the server; alertmanager_url: of the one that it sends its alerts to."""
        self.url = url
        self._alertmanager_url = alertmanager_url
        self._client = httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, trust_env=False)
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def __aenter__(self) -> "Prometheus":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def over(self, expression: str, window: Window) -> list[Series]:
        """An expression over time; raises QueryFailed when Prometheus refuses it."""
        times = window.times
        data = await self._asked(
            "query_range", query=expression, start=times[0], end=times[-1], step=window.step
        )
        found = []
        for each in data["result"]:
            values = [math.nan] * len(times)
            for time, value in each["values"]:
                values[round((float(time) - times[0]) / window.step)] = float(value)
            found.append(Series(each["metric"], values))
        return found

    async def values(self, query: str, window: Window) -> list[str]:
        """The values of a label, as `label_values(METRIC, LABEL)` asks for them, in order.

        Raises:
            QueryFailed: it is no such query, or Prometheus refuses it.
        """
        match = _LABEL_VALUES.fullmatch(query)
        if match is None:
            raise QueryFailed(f"{query} is not label_values(METRIC, LABEL)")
        found: list[str] = await self._asked(
            f"label/{match[2]}/values",
            **{"match[]": match[1]},
            start=window.times[0],
            end=window.end,
        )
        return found

    async def metrics(self) -> frozenset[str]:
        """The names of all metrics that it has."""
        return frozenset(await self._asked("label/__name__/values"))

    async def failing_rules(self) -> dict[str, str]:
        """The rules that Prometheus cannot evaluate: what it says of each, by name."""
        data = await self._asked("rules")
        rules = [rule for group in data["groups"] for rule in group["rules"]]
        return {rule["name"]: rule["lastError"] for rule in rules if rule["health"] == "err"}

    async def alerts(self) -> list[Alert]:
        """The alerts that fire or are pending, those that fire first."""
        data, suppressed = await asyncio.gather(self._asked("alerts"), self._suppressed())
        # Alertmanager's have Prometheus' external labels, too.
        alerts = [
            _alert(each, any(each["labels"].items() <= labels for labels in suppressed))
            for each in data["alerts"]
        ]
        return sorted(alerts, key=lambda alert: (alert.state, alert.severity, alert.name))

    async def _suppressed(self) -> list[Set[tuple[str, str]]]:
        """The labels of the alerts of which Alertmanager tells nobody; none if it is down."""
        try:
            reply = await self._client.get(f"{self._alertmanager_url}/api/v2/alerts")
            found = reply.raise_for_status().json()
        except (httpx.HTTPError, ValueError):
            return []
        return [each["labels"].items() for each in found if each["status"]["state"] == "suppressed"]

    async def targets(self) -> list[Target]:
        """What it scrapes, by job."""
        data = await self._asked("targets", state="active")
        targets = [
            Target(
                each["labels"]["job"],
                each["labels"]["instance"],
                each["health"] != "down",
                each["lastError"],
            )
            for each in data["activeTargets"]
        ]
        return sorted(targets, key=lambda target: (target.job, target.address))

    async def _asked(self, path: str, **parameters: str | float) -> Any:
        async with self._places:
            try:
                reply = await self._client.get(f"/api/v1/{path}", params=parameters)
                answer = reply.json()
            except httpx.HTTPError as error:
                raise Unreachable(sentence(error) or type(error).__name__) from None
            except ValueError:
                raise Unreachable(f"it answers with status {reply.status_code}") from None
        if answer.get("status") != "success":
            raise QueryFailed(sentence(answer.get("error", f"status {reply.status_code}")))
        return answer["data"]


def _alert(found: Mapping[str, Any], suppressed: bool) -> Alert:
    labels, annotations = found["labels"], found["annotations"]
    shown = {name: value for name, value in labels.items() if name not in ("alertname", "severity")}
    return Alert(
        labels["alertname"],
        found["state"],
        labels.get("severity", ""),
        annotations.get("summary", ""),
        datetime.fromisoformat(found["activeAt"]).astimezone(),
        shown,
        suppressed,
    )
