"""The support archive: what is in it, and that no secret is."""

import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from serving.cluster.api import Cluster
from serving.cluster.bundle import without_secrets, write_bundle
from tests.serving.cluster.api_server import SECRET as ENCODED
from tests.serving.cluster.api_server import ApiServer, Refusal
from tests.serving.cluster.pods import pod

SECRET = "hunter2-xyz"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
LOG = f"""ready
connecting to postgresql://nuclei:{SECRET}@db:5432/nuclei
NUCLEI_TOKEN={SECRET} and "password": "{SECRET}" and secret_key: {SECRET}
Authorization: Bearer {SECRET}
{JWT}
-----BEGIN EC PRIVATE KEY-----
{SECRET}
-----END EC PRIVATE KEY-----
frame 7 done
"""


def read(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        return {
            one.name.removeprefix("nuclei-support/"): archive.extractfile(one).read().decode()
            for one in archive.getmembers()
        }


@pytest.fixture
def filled_server(server: ApiServer) -> ApiServer:
    server.put_secret("nuclei-token", "token")
    item = pod("triton-a")
    item["metadata"]["annotations"] = {
        "kubectl.kubernetes.io/last-applied-configuration": f'{{"token": "{SECRET}"}}'
    }
    item["spec"]["containers"][0] |= {
        "env": [{"name": "NUCLEI_TOKEN", "value": SECRET}, {"name": "HOME", "value": "/tmp"}],
        "args": ["--api-key", SECRET, "--port", "8001"],
    }
    server.add("v1/pods", item)
    server.add(
        "v1/configmaps",
        {
            "metadata": {"name": "mlflow", "namespace": "nuclei"},
            "data": {"URI": f"s3://key:{SECRET}@store", "DB_PASSWORD": SECRET, "WORKERS": "4"},
        },
    )
    server.add(
        "v1/events",
        {
            "metadata": {"name": "event", "namespace": "nuclei"},
            "lastTimestamp": "2026-01-02T03:04:05Z",
            "involvedObject": {"kind": "Pod", "name": "triton-a"},
            "reason": "Failed",
            "message": f"pull with token={SECRET} failed",
        },
    )
    server.logs["triton-a", "triton"] = LOG.encode() + b"\xff\n"
    return server


def test_it_holds_objects_events_logs_and_status_but_no_secret(
    filled_server: ApiServer, cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "support.tar.gz"
    assert write_bundle(cluster, "nuclei", path, "all is well\n", datetime.now(UTC)) == []
    files = read(path)
    assert files["status.txt"] == "all is well\n"
    assert "Failed: pull with token=*** failed" in files["events.txt"]
    log = files["logs/triton-a/triton.log"]
    assert log.startswith("ready\n")
    assert "frame 7 done" in log
    assert "--port" in files["objects/Pod.yaml"]
    assert "/tmp" in files["objects/Pod.yaml"]
    assert "WORKERS: '4'" in files["objects/ConfigMap.yaml"]
    whole = "".join(files.values())
    assert SECRET not in whole
    assert JWT not in whole
    assert ENCODED not in whole


def test_what_may_not_be_read_is_told(
    filled_server: ApiServer, cluster: Cluster, tmp_path: Path
) -> None:
    filled_server.refusals.append(Refusal("GET", "pods/log", 403, "pods/log is forbidden"))
    path = tmp_path / "support.tar.gz"
    (lacking,) = write_bundle(cluster, "nuclei", path, "", datetime.now(UTC))
    assert "get pods/log" in lacking
    assert read(path)["lacking.txt"] == f"{lacking}\n"


@pytest.mark.parametrize(
    "text", ["frame 7 done", "tokens: counted", "http://mlflow:5000", "secretName: nuclei-tls"]
)
def test_other_text_stays(text: str) -> None:
    assert without_secrets(text) == text
