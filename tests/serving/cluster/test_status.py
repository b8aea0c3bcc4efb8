"""What `status` says, and what it calls wrong."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serving.cluster.api import Cluster
from serving.cluster.status import Status, read_status
from tests.serving.cluster.api_server import ApiServer, Refusal
from tests.serving.cluster.pods import pod, report
from tests.serving.promotion.registries import MODEL, Filled

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)


def status(cluster: Cluster) -> Status:
    return read_status(cluster, "nuclei", [], NOW)


def deployment(server: ApiServer, ready: int = 2, **more: Any) -> None:
    metadata = {"name": "gateway", "namespace": "nuclei"}
    state = {"readyReplicas": ready, **more}
    item = {"kind": "Deployment", "metadata": metadata, "spec": {"replicas": 2}, "status": state}
    server.add("apps/v1/deployments", item)


def certificate(ends: datetime) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=400))
        .not_valid_after(ends)
        .sign(key, hashes.SHA256())
    )
    return base64.b64encode(made.public_bytes(serialization.Encoding.PEM)).decode()


def test_nothing_is_wrong_with_a_deployment_that_is_ready(
    server: ApiServer, cluster: Cluster
) -> None:
    deployment(server)
    server.add("v1/pods", pod("gateway-a", "gateway"))
    server.add("v1/pods", pod("migration-a", "migration", ready=False, phase="Succeeded"))
    found = status(cluster)
    assert found.problems == ()
    assert found.facts == ("Deployment gateway: 2 of 2 pods ready",)
    states = [(one.name, one.component, one.state, one.restarts) for one in found.pods]
    assert states == [
        ("gateway-a", "gateway", "ready", 2),
        ("migration-a", "migration", "finished", 2),
    ]


def test_a_namespace_without_the_service_is_wrong(server: ApiServer, cluster: Cluster) -> None:
    (problem,) = status(cluster).problems
    assert "nuclei deploy apply" in problem


def waiting(reason: str, **last: object) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": "because"}}
    return {"name": "triton", "restartCount": 3, "state": state, "lastState": last}


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (
            {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/3 nodes: Insufficient nvidia.com/gpu",
                    }
                ],
            },
            "no node takes it: Unschedulable: 0/3 nodes: Insufficient nvidia.com/gpu",
        ),
        (
            {"containerStatuses": [waiting("ImagePullBackOff")]},
            "triton waits: ImagePullBackOff: because",
        ),
        (
            {
                "containerStatuses": [
                    waiting("CrashLoopBackOff", terminated={"reason": "OOMKilled"})
                ]
            },
            "triton waits: CrashLoopBackOff: because; it was killed for its memory: raise its "
            "limit",
        ),
        (
            {
                "containerStatuses": [
                    {"name": "triton", "lastState": {"terminated": {"reason": "OOMKilled"}}}
                ]
            },
            "triton was killed for its memory: raise its limit",
        ),
        ({"phase": "Failed", "reason": "Evicted"}, "failed: Evicted"),
        (
            {"conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}]},
            "runs since 2026-01-02T03:04:05Z and is not ready: ContainersNotReady",
        ),
        ({"containerStatuses": [waiting("ContainerCreating")]}, None),
    ],
)
def test_what_is_wrong_with_a_pod_is_one_line(
    state: dict[str, Any], problem: str | None, server: ApiServer, cluster: Cluster
) -> None:
    deployment(server)
    server.add("v1/pods", pod("triton-a", **state))
    expected = () if problem is None else (f"pod triton-a: {problem}",)
    assert status(cluster).problems == expected


def test_a_rollout_that_does_not_progress_is_wrong(server: ApiServer, cluster: Cluster) -> None:
    stuck = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    deployment(server, ready=1, conditions=[stuck])
    assert status(cluster).problems == (
        "Deployment gateway: 1 of 2 pods are ready",
        "Deployment gateway does not progress: ProgressDeadlineExceeded",
    )


def test_autoscalers_that_do_not_scale_are_wrong(server: ApiServer, cluster: Cluster) -> None:
    deployment(server)
    server.install("keda.sh/v1alpha1/scaledobjects")
    blind = {"type": "ScalingActive", "status": "False", "reason": "FailedGetExternalMetric"}
    server.add(
        "autoscaling/v2/horizontalpodautoscalers",
        {
            "metadata": {"name": "triton", "namespace": "nuclei"},
            "spec": {"minReplicas": 1, "maxReplicas": 4},
            "status": {"currentReplicas": 4, "conditions": [blind]},
        },
    )
    server.add(
        "keda.sh/v1alpha1/scaledobjects",
        {
            "metadata": {"name": "gateway", "namespace": "nuclei"},
            "spec": {"minReplicaCount": 2, "maxReplicaCount": 6},
            "status": {
                "conditions": [{"type": "Fallback", "status": "True", "message": "no data"}]
            },
        },
    )
    found = status(cluster)
    assert found.facts[1:] == (
        "ScaledObject gateway: 2 to 6 pods",
        "HorizontalPodAutoscaler triton: 1 to 4 pods, now 4",
    )
    assert found.problems == (
        "ScaledObject gateway: Fallback is True: no data",
        "HorizontalPodAutoscaler triton: ScalingActive is False: FailedGetExternalMetric",
        "HorizontalPodAutoscaler triton: at its maximum of 4 pods",
    )


@pytest.mark.parametrize(
    ("left", "problem"),
    [
        (timedelta(days=60), None),
        (timedelta(days=3, hours=1), "ends in 3 days: renew it"),
        (timedelta(days=-1), "ended 2026-01-01 12:00 UTC: renew it"),
    ],
)
def test_certificates_that_end_are_wrong(
    left: timedelta, problem: str | None, server: ApiServer, cluster: Cluster
) -> None:
    deployment(server)
    secret = {
        "metadata": {"name": "nuclei-tls", "namespace": "nuclei"},
        "type": "kubernetes.io/tls",
        "data": {"tls.crt": certificate(NOW + left)},
    }
    server.add("v1/secrets", secret)
    found = status(cluster)
    assert found.facts[1].startswith("certificate nuclei-tls: until ")
    expected = () if problem is None else (f"certificate nuclei-tls {problem}",)
    assert found.problems == expected


def test_without_the_right_to_secrets_the_rest_is_told(server: ApiServer, cluster: Cluster) -> None:
    deployment(server)
    server.refusals.append(Refusal("GET", "secrets", 403, "secrets is forbidden"))
    found = status(cluster)
    assert found.problems == ()
    assert "certificates: unknown, secrets may not be listed" in found.facts


def test_versions_are_told_by_pod(server: ApiServer, cluster: Cluster, filled: Filled) -> None:
    deployment(server)
    filled.registry.set_alias(MODEL, "champion", 2)
    for name, champion in {"triton-a": 2, "triton-b": 1}.items():
        server.add("v1/pods", pod(name))
        report(filled, name, champion)
    server.add("v1/pods", pod("triton-c"))
    found = read_status(cluster, "nuclei", [filled.state()], datetime.now(UTC))
    assert [one.serves for one in found.pods] == [{MODEL: 2}, {MODEL: 1}, None]
    assert found.problems == (f"pod triton-b: serves {MODEL} 1 instead of 2",)
