"""A support archive: what is needed to understand a deployment from afar, without its secrets."""

import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from nuclei.errors import NucleiError
from nuclei.quoting import without_password
from serving.cluster.api import Cluster
from serving.cluster.objects import SELECTOR, Object, containers

# Never a Secret.
KINDS = (
    ("v1", "Pod"),
    ("v1", "Service"),
    ("v1", "ConfigMap"),
    ("v1", "PersistentVolumeClaim"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "ReplicaSet"),
    ("batch/v1", "Job"),
    ("batch/v1", "CronJob"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
    ("keda.sh/v1alpha1", "ScaledObject"),
)
LINES = 5000
HIDDEN = "***"
# Holds the whole object once more, as it was typed.
_TYPED = "kubectl.kubernetes.io/last-applied-configuration"
_SECRET_NAME = (
    r"[\w.-]*(?:token|secret|passw(?:or)?d|credentials?|(?:private|access|secret|api)[-_]?key)"
)
_IS_SECRET = re.compile(_SECRET_NAME, re.IGNORECASE)
_SECRET_OPTION = re.compile(rf"--?{_SECRET_NAME}", re.IGNORECASE)
_ASSIGNED = re.compile(rf"({_SECRET_NAME}\"?\s*[=:]\s*)(\"[^\"]*\"|\S+)", re.IGNORECASE)
_BEARER = re.compile(r"(bearer|basic)\s+[\w.~+/=-]+", re.IGNORECASE)
_PEM = re.compile(r"-----BEGIN [^-]*PRIVATE KEY-----.*?(-----END [^-]*-----|\Z)", re.DOTALL)
_JWT = re.compile(r"eyJ[\w-]{8,}\.[\w-]+\.[\w-]*")


def write_bundle(
    cluster: Cluster, namespace: str, path: Path, status: str, now: datetime
) -> list[str]:
    """Write the archive.

    Args:
        cluster: of the deployment.
        namespace: of the deployment.
        path: of the archive, `.tar.gz`.
        status: as `nuclei deploy status` prints it.
        now: the time, of the files in it.

    Returns:
        What could not be read, one sentence each; the archive holds it as well.

    Raises:
        OSError: it cannot be written.
        ClusterUnavailable: the cluster does not answer.
    """
    lacking: list[str] = []
    with tarfile.open(path, "x:gz") as archive:
        _add(archive, "status.txt", without_secrets(status), now)
        for name, text in _parts(cluster, namespace, lacking):
            _add(archive, name, text, now)
        _add(archive, "lacking.txt", "".join(f"{line}\n" for line in lacking), now)
    return lacking


def without_secrets(text: str) -> str:
    """Free text without what looks like a secret: passwords in addresses, tokens, keys."""
    text = _PEM.sub(HIDDEN, without_password(text))
    text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    return _JWT.sub(HIDDEN, _ASSIGNED.sub(rf"\1{HIDDEN}", text))


def _parts(cluster: Cluster, namespace: str, lacking: list[str]) -> Iterator[tuple[str, str]]:
    for api_version, kind in KINDS:
        with _noted(lacking):
            if cluster.knows(api_version, kind):
                items = map(_cleaned, cluster.items(api_version, kind, namespace))
                yield f"objects/{kind}.yaml", yaml.safe_dump_all(items, sort_keys=False)
    with _noted(lacking):
        events = sorted(cluster.items("v1", "Event", namespace), key=_last)
        yield "events.txt", "".join(map(_event, events))
    pods: list[Object] = []
    with _noted(lacking):
        pods = cluster.items("v1", "Pod", namespace, SELECTOR)
    for pod in pods:
        for container in containers(pod):
            pod_name, name = pod["metadata"]["name"], container["name"]
            with _noted(lacking):
                log = cluster.log(pod_name, name, namespace, lines=LINES)
                yield f"logs/{pod_name}/{name}.log", without_secrets(log)


@contextmanager
def _noted(lacking: list[str]) -> Iterator[None]:
    try:
        yield
    except NucleiError as error:
        lacking.append(without_secrets(str(error)))


def _cleaned(item: Object) -> Object:
    item["metadata"].pop("managedFields", None)
    (item["metadata"].get("annotations") or {}).pop(_TYPED, None)
    cleaned = _hidden(item)
    assert isinstance(cleaned, dict)
    return cleaned


def _hidden(value: Any) -> Any:
    """A part of an object without the values that may be secret."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, list):
        # An option and its value may be two arguments of a command.
        before = ["", *map(str, value)]
        return [
            HIDDEN if _SECRET_OPTION.fullmatch(name) else _hidden(one)
            for name, one in zip(before, value, strict=False)
        ]
    if not isinstance(value, Mapping):
        return value
    if _IS_SECRET.search(str(value.get("name", ""))) and isinstance(value.get("value"), str):
        value = {**value, "value": HIDDEN}
    return {
        name: HIDDEN if isinstance(one, str) and _IS_SECRET.fullmatch(name) else _hidden(one)
        for name, one in value.items()
    }


def _event(event: Object) -> str:
    about = event.get("involvedObject") or {}
    said = f"{event.get('reason', '')}: {event.get('message', '')}".replace("\n", " ")
    return without_secrets(
        f"{_last(event)} {event.get('type', '')} {about.get('kind', '')} {about.get('name', '')} "
        f"{said}\n"
    )


def _last(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")


def _add(archive: tarfile.TarFile, name: str, text: str, now: datetime) -> None:
    content = text.encode()
    entry = tarfile.TarInfo(f"nuclei-support/{name}")
    entry.size, entry.mtime, entry.mode = len(content), int(now.timestamp()), 0o600
    archive.addfile(entry, io.BytesIO(content))
