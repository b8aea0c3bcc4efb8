"""The state of a deployment, and what is wrong with it, one line each."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509

from nuclei.errors import NotPermitted
from nuclei.quoting import printable, sentence
from serving.cluster.api import Cluster
from serving.cluster.objects import SELECTOR, Object, component, named
from serving.promotion.state import ModelState, SyncStatus

TRITON = "triton"
RENEW_BEFORE = timedelta(days=14)
# A pod that starts has this long before it counts as wrong.
STARTING = timedelta(minutes=10)
_AUTOSCALERS = (
    ("keda.sh/v1alpha1", "ScaledObject"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
)


# Conditions of an autoscaler that say whether it works.
_TELLING = ("Ready", "Fallback", "Paused", "AbleToScale", "ScalingActive")


@dataclass(frozen=True)
class Pod:
    """A pod and how it is.

    Attributes:
        name: of the pod.
        component: `gateway`, `triton`, `mlflow` or `training`.
        state: `ready`, `finished`, or what it does instead.
        restarts: of its containers together.
        serves: champions by model, of a Triton; None where nobody said.
        problem: what is wrong, one sentence; None for nothing.
    """

    name: str
    component: str
    state: str
    restarts: int
    serves: Mapping[str, int] | None
    problem: str | None


@dataclass(frozen=True)
class Status:
    """A deployment at one moment.

    Attributes:
        pods: by name.
        facts: workloads, autoscalers and certificates, one line each.
        problems: what is wrong, one sentence each.
    """

    pods: tuple[Pod, ...]
    facts: tuple[str, ...]
    problems: tuple[str, ...]


def read_status(
    cluster: Cluster, namespace: str, states: Sequence[ModelState], now: datetime
) -> Status:
    """Read the state of a deployment.

    Args:
        cluster: it runs in.
        namespace: of the deployment.
        states: the registered models; their sync processes say which versions pods serve.
        now: the time.

    Raises:
        NotPermitted: what is asked for may not be listed.
        ClusterUnavailable: the cluster does not answer.
    """
    facts: list[str] = []
    problems: list[str] = []
    deployments = cluster.items("apps/v1", "Deployment", namespace, SELECTOR)
    if not deployments:
        problems.append(f"namespace {namespace} has no Deployment of it: nuclei deploy apply")
    for item in deployments:
        _workload(item, facts, problems)
    found = cluster.items("v1", "Pod", namespace, SELECTOR)
    pods = tuple(_pod(item, states, now) for item in found)
    problems += [f"pod {pod.name}: {pod.problem}" for pod in pods if pod.problem]
    for api_version, kind in _AUTOSCALERS:
        if cluster.knows(api_version, kind):
            for item in cluster.items(api_version, kind, namespace):
                _autoscaler(item, facts, problems)
    _certificates(cluster, namespace, now, facts, problems)
    return Status(pods, tuple(facts), tuple(problems))


def serving_pods(cluster: Cluster, namespace: str) -> list[str]:
    """Names of the Triton pods that are to answer: those that do not end."""
    return [
        item["metadata"]["name"]
        for item in cluster.items("v1", "Pod", namespace, SELECTOR)
        if component(item) == TRITON
        and not item["metadata"].get("deletionTimestamp")
        and (item.get("status") or {}).get("phase") in ("Pending", "Running")
    ]


def sync_of(state: ModelState, pod: str, now: datetime) -> SyncStatus | None:
    """What the sync process of a pod says; None when it says nothing (any more)."""
    for instance, status in state.live_syncs(now).items():
        # Named by the pod, or by the machine's name and a port.
        if instance == pod or instance.rpartition("-")[0] == pod[:48]:
            return status
    return None


def _workload(item: Object, facts: list[str], problems: list[str]) -> None:
    wanted = int((item.get("spec") or {}).get("replicas", 1))
    status = item.get("status") or {}
    ready = int(status.get("readyReplicas") or 0)
    facts.append(f"{named(item)}: {ready} of {wanted} pods ready")
    if ready < wanted:
        problems.append(f"{named(item)}: {ready} of {wanted} pods are ready")
    for condition in status.get("conditions") or []:
        if condition.get("type") == "Progressing" and condition.get("status") == "False":
            problems.append(f"{named(item)} does not progress: {_said(condition)}")


def _pod(item: Object, states: Sequence[ModelState], now: datetime) -> Pod:
    name, status = item["metadata"]["name"], item.get("status") or {}
    containers = [
        *(status.get("initContainerStatuses") or []),
        *(status.get("containerStatuses") or []),
    ]
    problem = next(_problems(item, containers, now), None)
    ready = _condition(status, "Ready")
    if item["metadata"].get("deletionTimestamp"):
        state = "ending"
    elif status.get("phase") == "Succeeded":
        state = "finished"
    elif ready and ready.get("status") == "True":
        state = "ready"
    else:
        state = str(status.get("phase", "unknown")).lower()
    serves: dict[str, int] | None = None
    if component(item) == TRITON:
        spoke = {one.name: sync_of(one, name, now) for one in states}
        serves = {model: one.champion for model, one in spoke.items() if one and one.champion}
        lagging = [
            f"{one.name} {serves[one.name]} instead of {one.champion}"
            for one in states
            if one.champion and one.name in serves and serves[one.name] != one.champion
        ]
        if problem is None and lagging:
            problem = f"serves {', '.join(lagging)}"
    return Pod(
        name,
        component(item),
        state,
        sum(int(one.get("restartCount") or 0) for one in containers),
        serves or None,
        problem,
    )


def _problems(item: Object, containers: Sequence[Object], now: datetime) -> Iterator[str]:
    status = item.get("status") or {}
    scheduled = _condition(status, "PodScheduled")
    if scheduled and scheduled.get("status") == "False":
        yield f"no node takes it: {_said(scheduled)}"
    if status.get("phase") == "Failed":
        yield f"failed: {_said(status)}"
    for one in containers:
        state, last = one.get("state") or {}, one.get("lastState") or {}
        waiting, ended = state.get("waiting"), last.get("terminated") or state.get("terminated")
        killed = (ended or {}).get("reason") == "OOMKilled"
        memory = "; it was killed for its memory: raise its limit" if killed else ""
        if waiting and waiting.get("reason") not in ("ContainerCreating", "PodInitializing"):
            yield f"{one['name']} waits: {_said(waiting)}{memory}"
        elif killed:
            yield f"{one['name']} was killed for its memory: raise its limit"
    started = status.get("startTime")
    ready = _condition(status, "Ready")
    lacks_ready = ready is not None and ready.get("status") != "True"
    running = status.get("phase") == "Running"
    if running and started and lacks_ready and now - _time(started) > STARTING:
        yield f"runs since {started} and is not ready: {_said(ready or {})}"


def _autoscaler(item: Object, facts: list[str], problems: list[str]) -> None:
    spec, status = item.get("spec") or {}, item.get("status") or {}
    least = spec.get("minReplicaCount", spec.get("minReplicas", 0))
    most = spec.get("maxReplicaCount", spec.get("maxReplicas", "any number of"))
    present = status.get("currentReplicas")
    now = "" if present is None else f", now {present}"
    facts.append(f"{named(item)}: {least} to {most} pods{now}")
    for condition in status.get("conditions") or []:
        kind, value = condition.get("type"), condition.get("status")
        fine = "False" if kind in ("Fallback", "Paused") else "True"
        if kind in _TELLING and value not in (fine, "Unknown"):
            problems.append(f"{named(item)}: {kind} is {value}: {_said(condition)}")
    if present is not None and present == most:
        problems.append(f"{named(item)}: at its maximum of {most} pods")


def _certificates(
    cluster: Cluster, namespace: str, now: datetime, facts: list[str], problems: list[str]
) -> None:
    try:
        secrets = cluster.items("v1", "Secret", namespace)
    except NotPermitted:
        facts.append("certificates: unknown, secrets may not be listed")
        return
    for item in secrets:
        if item.get("type") != "kubernetes.io/tls":
            continue
        ends = _end_of((item.get("data") or {}).get("tls.crt", ""))
        name = item["metadata"]["name"]
        if ends is None:
            problems.append(f"secret {name}: tls.crt holds no certificate")
            continue
        facts.append(f"certificate {name}: until {ends:%Y-%m-%d %H:%M} UTC")
        if ends < now:
            problems.append(f"certificate {name} ended {ends:%Y-%m-%d %H:%M} UTC: renew it")
        elif ends - now < RENEW_BEFORE:
            problems.append(f"certificate {name} ends in {(ends - now).days} days: renew it")


def _end_of(encoded: str) -> datetime | None:
    try:
        return x509.load_pem_x509_certificate(base64.b64decode(encoded)).not_valid_after_utc
    except ValueError:
        return None


def _condition(status: Object, kind: str) -> Object | None:
    found = (one for one in status.get("conditions") or [] if one.get("type") == kind)
    return next(found, None)


def _said(condition: Mapping[str, Any]) -> str:
    parts = (condition.get("reason"), condition.get("message"))
    return printable(sentence(": ".join(str(part) for part in parts if part) or "no reason given"))


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)
