"""Pods as a cluster tells of them."""

from datetime import UTC, datetime
from typing import Any

from serving.promotion.changes import report_status
from serving.promotion.state import SyncStatus
from tests.serving.promotion.registries import Filled

Object = dict[str, Any]
STARTED = "2026-01-02T03:04:05Z"


def pod(name: str, component: str = "triton", ready: bool = True, **status: object) -> Object:
    """A pod that runs, unless its status says otherwise."""
    return {
        "metadata": {
            "name": name,
            "namespace": "nuclei",
            "labels": {
                "app.kubernetes.io/component": component,
                "app.kubernetes.io/part-of": "nuclei-serving",
            },
        },
        "spec": {"containers": [{"name": component}]},
        "status": {
            "phase": "Running",
            "startTime": STARTED,
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [{"name": component, "restartCount": 2, "state": {}}],
            **status,
        },
    }


def report(filled: Filled, pod_name: str, champion: int | None) -> None:
    """The sync process of a pod says what its Triton serves."""
    now = datetime.now(UTC)
    loaded = {} if champion is None else {champion: now}
    status = SyncStatus(loaded=loaded, champion=champion, at=now)
    report_status(filled.registry, filled.state(), f"{pod_name}-8003", status)
