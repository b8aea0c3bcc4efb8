"""The images, in a pod of both tiers that podman plays from the manifests of the overlay `cpu`.

`make images` builds them and `make test-images` runs this; `make test` leaves it out, for minutes.
"""

import base64
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml

from nuclei.client import Client
from nuclei.errors import EngineUnavailable, Overloaded
from nuclei.imaging.images import read_frame
from nuclei.process.child import Child
from nuclei.process.ports import free_ports
from serving.cluster.objects import Object
from serving.triton.control import TritonControl
from tests.k8s.objects import ROOT, Pod, of_kind, pods
from tests.prerequisites import missing, require_programs

pytestmark = pytest.mark.container

NAME = "nuclei-test"
SECRET = "nuclei-token"
TOKEN = secrets.token_hex(32)
START_S = 300.0
EXAMPLE = ROOT / "examples" / "fluorescence.png"
NUCLEI = 22


def podman(*words: str, text: str = "") -> str:
    """What a command of podman prints; fails with what it says."""
    ran = subprocess.run(["podman", *words], capture_output=True, text=True, input=text)
    assert ran.returncode == 0, f"podman {' '.join(words)}: {ran.stderr}"
    return ran.stdout.strip()


def parts() -> list[Pod]:
    return [pod for pod in pods("cpu") if pod.owner in ("Deployment/gateway", "Deployment/triton")]


def described(container: str) -> Object:
    return next(each for pod in parts() for each in pod.containers if each["name"] == container)


def together(mlflow: str, port: int) -> str:
    """Both pods as one, whose containers reach each other by loopback, for `podman kube play`.

    Left out is what podman 4.3 does not know: probes over HTTP, which the test asks itself, and
    memory as a volume. Its other volumes take the owner of the folder in the image.
    """
    spec: Object = {
        "restartPolicy": "Never",
        "securityContext": parts()[0].spec["securityContext"],
        "hostAliases": [
            {"ip": "127.0.0.1", "hostnames": ["triton", "gateway-pods"]},
            {"ip": mlflow, "hostnames": ["mlflow"]},
        ],
    }
    for key in ("initContainers", "containers", "volumes"):
        spec[key] = [each for pod in parts() for each in pod.spec.get(key, ())]
    spec["volumes"] = [each for each in spec["volumes"] if each["name"] != "shm"]
    unknown = ("ports", "startupProbe", "readinessProbe", "livenessProbe", "lifecycle")
    for key in ("initContainers", "containers"):
        spec[key] = [
            {name: value for name, value in each.items() if name not in unknown}
            | {"volumeMounts": [m for m in each["volumeMounts"] if m["name"] != "shm"]}
            for each in spec[key]
        ]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": NAME}, "spec": spec}
    objects = yaml.safe_dump_all([*of_kind("cpu", "ConfigMap"), pod])
    return objects.replace("http://mlflow:5000", f"http://mlflow:{port}")


@contextmanager
def registry(folder: Path, host: str, port: int) -> Iterator[None]:
    """An MLflow server without any model, for the containers alone."""
    command = [
        *(str(Path(sys.executable).parent / "mlflow"), "server", "--host", host),
        *("--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    variables = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"mlflow:{port},{host}:{port}",
    }
    server = Child("MLflow", command, variables, folder / "mlflow.log")
    server.start()
    try:
        wait(lambda: urlopen(f"http://{host}:{port}/health", timeout=5).status == 200)
        yield
    finally:
        server.stop(5)


def wait(holds: Callable[[], bool], logs: str = "") -> None:
    """Until it holds; what cannot be reached yet does not. Args: logs: of a container, to show."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            if holds():
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, logs and podman("logs", "--tail", "40", logs)
        time.sleep(0.5)


@dataclass(frozen=True)
class Played:
    """The pod. Attributes: ip: its address."""

    ip: str

    def client(self) -> Client:
        return Client(f"{self.ip}:50051", token=TOKEN)

    def inspected(self, container: str) -> Any:
        return json.loads(podman("inspect", f"{NAME}-{container}"))[0]

    def is_ready(self, container: str) -> bool:
        """Whether its readiness probe, which is one over HTTP, would pass."""
        asked = described(container)["readinessProbe"]["httpGet"]
        ports = {port["name"]: port["containerPort"] for port in described(container)["ports"]}
        url = f"http://{self.ip}:{ports[asked['port']]}{asked['path']}"
        return bool(urlopen(url, timeout=5).status == 200)


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    require_programs("podman", "runc", install="apt-get install podman runc")
    images = {each["image"] for pod in parts() for each in pod.containers}
    if os.geteuid() != 0:
        missing("needs to be root: sudo make test-images")
    for image in images:
        if subprocess.run(["podman", "image", "exists", image]).returncode != 0:
            missing(f"needs the image {image}: make images")
    folder = tmp_path_factory.mktemp("registry")
    (port,) = free_ports(1)
    # The network is there while a container is in it.
    holder = podman("run", "--detach", "--rm", sorted(images)[0], "sleep", "3600")
    try:
        gateway = "{{(index .Subnets 0).Gateway}}"
        host = podman("network", "inspect", "podman", "--format", gateway)
        token = base64.b64encode(TOKEN.encode()).decode()
        podman("secret", "create", SECRET, "-", text=json.dumps({"token": token}))
        with registry(folder, host, port):
            manifest = folder / "pod.yaml"
            manifest.write_text(together(host, port))
            podman("kube", "play", str(manifest))
            networks = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
            infra = podman("pod", "inspect", NAME, "--format", "{{.InfraContainerID}}")
            yield Played(podman("inspect", infra, "--format", networks))
    finally:
        for words in (["pod", "rm", "--force", NAME], ["secret", "rm", SECRET]):
            subprocess.run(["podman", *words], capture_output=True)
        podman("rm", "--force", "--time", "1", holder)


@pytest.mark.parametrize("container", ["gateway", "triton", "sync"])
def test_a_container_has_no_rights_and_its_limits(pod: Played, container: str) -> None:
    inspected, limits = pod.inspected(container), described(container)["resources"]["limits"]
    assert inspected["HostConfig"]["ReadonlyRootfs"]
    assert inspected["EffectiveCaps"] in (None, [])
    assert "no-new-privileges" in inspected["HostConfig"]["SecurityOpt"]
    assert inspected["HostConfig"]["Memory"] == int(limits["memory"].removesuffix("Gi")) * 2**30
    asked = "id -u; touch /written 2>&1; touch /tmp/written && echo there"
    said = podman("exec", f"{NAME}-{container}", "sh", "-c", asked).splitlines()
    assert said[0] == "10001"
    assert "Read-only file system" in said[1]
    assert said[2:] == ["there"]


def test_it_becomes_ready_and_segments_a_frame(pod: Played) -> None:
    # Sync's is that every champion is loaded by Triton, and has answered.
    for container in ("sync", "gateway"):
        wait(lambda: pod.is_ready(container), f"{NAME}-{container}")  # noqa: B023
    with pod.client() as client:
        found = client.segment(read_frame(EXAMPLE).pixels)
    assert len(found.nuclei) == pytest.approx(NUCLEI, abs=1)
    command = ["nuclei", "segment", str(EXAMPLE.relative_to(ROOT)), "--out", "/tmp/results"]
    podman("exec", f"{NAME}-gateway", *command)
    rows = podman("exec", f"{NAME}-gateway", "cat", "/tmp/results/fluorescence.csv").splitlines()
    assert len(rows) == len(found.nuclei) + 1


def test_the_loops_over_pixels_come_compiled(pod: Played) -> None:
    counted = (
        "from nuclei.postprocessing.watershed import _mark as kernel;"
        "print(sum(kernel.stats.cache_hits.values()), kernel.stats.cache_path)"
    )
    hits, path = podman("exec", f"{NAME}-gateway", "python", "-c", counted).split()
    assert (hits, Path(path).name) == ("1", "__pycache__")


def test_models_cannot_be_unloaded_without_the_key_of_the_pod(pod: Played) -> None:
    with pytest.raises(EngineUnavailable, match="key"):
        TritonControl(f"{pod.ip}:8001").unload("unet")
    assert TritonControl(f"{pod.ip}:8001").is_ready("unet")


def test_a_gateway_that_is_told_to_end_answers_the_frames_that_it_has(pod: Played) -> None:
    pixels = read_frame(EXAMPLE).pixels
    with pod.client() as client, ThreadPoolExecutor(4) as callers:
        running = [callers.submit(client.segment, pixels, tta=True) for _ in range(4)]
        time.sleep(1)
        podman("kill", "--signal", "TERM", f"{NAME}-gateway")
        time.sleep(0.5)
        with pytest.raises((EngineUnavailable, Overloaded)):
            client.segment(pixels)
        assert all(abs(len(each.result().nuclei) - NUCLEI) <= 2 for each in running)
    assert podman("wait", f"{NAME}-gateway") == "0"


def test_a_triton_that_is_told_to_end_does_within_its_grace(pod: Played) -> None:
    """It fails the frames that it has then: they are done while its pod waits before."""
    (triton,) = (each for each in parts() if each.owner == "Deployment/triton")
    waits = described("triton")["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = triton.spec["terminationGracePeriodSeconds"] - waits
    podman("stop", "--time", str(grace), f"{NAME}-triton")
    assert pod.inspected("triton")["State"]["ExitCode"] == 0
