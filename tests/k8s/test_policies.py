"""What every object of every overlay keeps to."""

import re
from decimal import Decimal
from typing import Any

import pytest

from serving.cluster.objects import Object
from tests.k8s.objects import (
    K8S,
    OVERLAYS,
    ROOT,
    Pod,
    of_kind,
    overlay,
    pods,
    secrets,
    selected,
    variables,
)

SECRETS = {
    "nuclei-token": {"token"},
    "nuclei-database": {"uri"},
    "nuclei-store": {"access-key", "secret-key"},
    "nuclei-tls": {"", "tls.crt"},
}
NAMES = {"app.kubernetes.io/name": "nuclei", "app.kubernetes.io/part-of": "nuclei-serving"}
RESOURCES = {"cpu", "memory", "ephemeral-storage"}
UNITS = {"": 1, "m": Decimal("0.001"), "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")

every_overlay = pytest.mark.parametrize("name", OVERLAYS)


def amount(quantity: str | int) -> Decimal:
    """A quantity of Kubernetes as a number: cores or bytes."""
    number, unit = re.fullmatch(r"([\d.]+)(\D*)", str(quantity)).groups()
    return Decimal(number) * UNITS[unit]


def memory_volumes(pod: Pod, container: Object) -> Decimal:
    """Bytes that a container may put into volumes in memory, which count as its own."""
    mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
    volumes = {v["name"]: v["emptyDir"] for v in pod.spec.get("volumes", ()) if "emptyDir" in v}
    in_memory = {name for name, each in volumes.items() if each.get("medium") == "Memory"}
    return sum((amount(volumes[each]["sizeLimit"]) for each in mounted & in_memory), Decimal(0))


@every_overlay
def test_every_pod_is_restricted(name: str) -> None:
    (namespace,) = of_kind(name, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pods(name):
        context = pod.spec["securityContext"]
        assert context["runAsNonRoot"], pod.owner
        assert context["runAsUser"] >= 10000, pod.owner
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, pod.owner
        assert not pod.spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}, pod.owner
        kinds = {kind for volume in pod.spec.get("volumes", ()) for kind in volume} - {"name"}
        assert kinds <= {"emptyDir", "secret", "configMap", "persistentVolumeClaim"}, pod.owner
        for container in pod.containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, pod.owner
            assert not any("hostPort" in port for port in container.get("ports", ()))


@every_overlay
def test_no_pod_can_speak_to_the_api_server(name: str) -> None:
    accounts = {each["metadata"]["name"]: each for each in of_kind(name, "ServiceAccount")}
    for pod in pods(name):
        assert pod.spec["automountServiceAccountToken"] is False, pod.owner
        assert accounts[pod.spec["serviceAccountName"]]["automountServiceAccountToken"] is False


@every_overlay
def test_requests_and_limits_are_set_and_fit_one_another(name: str) -> None:
    for pod in pods(name):
        for container in pod.containers:
            requests, limits = (container["resources"][each] for each in ("requests", "limits"))
            assert requests.keys() >= RESOURCES, (pod.owner, container["name"])
            assert requests.keys() == limits.keys(), (pod.owner, container["name"])
            for each in requests:
                assert amount(requests[each]) <= amount(limits[each]), (pod.owner, each)
            in_memory = memory_volumes(pod, container)
            assert in_memory <= amount(limits["memory"]) / 2, (pod.owner, container["name"])


@every_overlay
def test_what_may_be_written_is_bounded_and_temporary_files_have_a_place(name: str) -> None:
    for pod in pods(name):
        volumes = {each["name"]: each for each in pod.spec.get("volumes", ())}
        used = set()
        for container in pod.containers:
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert "emptyDir" in volumes[mounts["/tmp"]], (pod.owner, container["name"])
            assert variables(name, container)["HOME"] == "/tmp", (pod.owner, container["name"])
            used |= set(mounts.values())
        assert used == set(volumes), pod.owner
        for volume in volumes.values():
            assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"], pod.owner


@every_overlay
def test_what_serves_says_whether_it_starts_is_ready_and_lives(name: str) -> None:
    for pod in pods(name):
        if not pod.serves:
            continue
        for container in pod.spec["containers"]:
            for probe in PROBES:
                asked = container[probe]
                port = asked["httpGet"]["port"] if "httpGet" in asked else asked["grpc"]["port"]
                # The kubelet looks a name up among the ports of the container itself.
                own = {each["name"]: each["containerPort"] for each in container["ports"]}
                assert port in {*own, *own.values()}, (pod.owner, container["name"], probe)
            dies = container["livenessProbe"]
            unready = container["readinessProbe"]
            assert dies["periodSeconds"] * dies["failureThreshold"] >= (
                unready["periodSeconds"] * unready["failureThreshold"]
            ), f"{pod.owner}: it would be ended before it is spared"


@every_overlay
def test_a_pod_is_given_the_time_that_it_takes_to_end(name: str) -> None:
    for pod in pods(name):
        for container in pod.containers:
            stop = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {})
            drain = variables(name, container).get("NUCLEI_DRAIN_S", "0")
            exits = next(
                (
                    argument.partition("=")[2]
                    for argument in container.get("args", ())
                    if argument.startswith(("--exit-timeout-secs=", "--shutdown-timeout="))
                ),
                "0",
            )
            takes = stop.get("seconds", 0) + float(drain) + float(exits)
            assert takes + 5 <= pod.spec.get("terminationGracePeriodSeconds", 30), pod.owner


@pytest.mark.parametrize("name", [name for name in OVERLAYS if name != "cpu"])
def test_no_pod_that_answers_frames_goes_before_the_new_one_is_ready(name: str) -> None:
    deployments = {each["metadata"]["name"]: each for each in of_kind(name, "Deployment")}
    for part in ("gateway", "triton"):
        assert deployments[part]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


@every_overlay
def test_selectors_match_pods_and_ports_exist(name: str) -> None:
    all_pods = pods(name)

    def matched(selector: Object) -> list[Pod]:
        found = [pod for pod in all_pods if selected(selector, pod.labels)]
        assert found, selector
        return found

    for each in of_kind(name, "Deployment"):
        (pod,) = matched(each["spec"]["selector"])
        assert pod.owner == f"Deployment/{each['metadata']['name']}"
        for constraint in pod.spec.get("topologySpreadConstraints", ()):
            assert matched(constraint["labelSelector"]) == [pod]
    for each in of_kind(name, "PodDisruptionBudget"):
        assert len(matched(each["spec"]["selector"])) == 1
    for each in of_kind(name, "Service"):
        (pod,) = matched({"matchLabels": each["spec"]["selector"]})
        for port in each["spec"]["ports"]:
            assert pod.ports[port["targetPort"]] == port["port"], each["metadata"]["name"]
    for each in of_kind(name, "PodMonitor"):
        (pod,) = matched(each["spec"]["selector"])
        assert {end["port"] for end in each["spec"]["podMetricsEndpoints"]} <= pod.ports.keys()
    for each in of_kind(name, "NetworkPolicy"):
        targets = matched(each["spec"]["podSelector"])
        for rule in each["spec"].get("ingress", ()):
            for peer in rule["from"]:
                if "podSelector" in peer:
                    matched(peer["podSelector"])
            for port in rule["ports"]:
                assert all(port["port"] in pod.ports for pod in targets), each["metadata"]["name"]
        for rule in each["spec"].get("egress", ()):
            for peer in rule.get("to", ()):
                if "namespaceSelector" not in peer:
                    (pod,) = matched(peer["podSelector"])
                    assert {port["port"] for port in rule["ports"]} <= set(pod.ports.values())


@every_overlay
def test_mlflow_lets_in_who_asks_for_it_and_who_forwards_its_port(name: str) -> None:
    asked = {
        value.removeprefix("http://")
        for pod in pods(name)
        for container in pod.containers
        for variable, value in variables(name, container).items()
        if variable in ("NUCLEI_SYNC", "MLFLOW_TRACKING_URI")
    }
    (mlflow,) = (pod for pod in pods(name) if pod.owner == "Deployment/mlflow")
    hosts = variables(name, mlflow.spec["containers"][0])["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert {*asked, "localhost:5000", "127.0.0.1:5000"} <= set(hosts)


# With a node that has to be started first (docs/kubernetes.md#scaling).
GPU_COLD_START_S = 420


@every_overlay
def test_a_rollout_on_gpus_is_given_a_node_s_start_and_the_loading_of_models(name: str) -> None:
    (triton,) = (e for e in of_kind(name, "Deployment") if e["metadata"]["name"] == "triton")
    (container,) = (
        each
        for each in triton["spec"]["template"]["spec"]["containers"]
        if each["name"] == "triton"
    )
    if "nvidia.com/gpu" in container["resources"]["limits"]:
        starts = container["startupProbe"]
        takes = GPU_COLD_START_S + starts["periodSeconds"] * starts["failureThreshold"]
        assert triton["spec"].get("progressDeadlineSeconds", 600) > takes


@every_overlay
def test_nothing_is_reached_that_no_policy_names(name: str) -> None:
    policies = of_kind(name, "NetworkPolicy")
    (default,) = [each for each in policies if not each["spec"]["podSelector"]]
    assert default["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in default["spec"]
    for pod in pods(name):
        own = [each for each in policies if selected(each["spec"]["podSelector"], pod.labels)]
        assert len(own) >= 2, f"{pod.owner} has the default policy alone"


@every_overlay
def test_a_pod_is_measured_once_its_containers_run(name: str) -> None:
    running = {
        "sourceLabels": ["__meta_kubernetes_pod_phase"],
        "action": "keep",
        "regex": "Running",
    }
    for each in of_kind(name, "PodMonitor"):
        for end in each["spec"]["podMetricsEndpoints"]:
            assert running in end["relabelings"], each["metadata"]["name"]


@every_overlay
def test_alerts_are_about_targets_of_ours(name: str) -> None:
    ends = [
        end for each in of_kind(name, "PodMonitor") for end in each["spec"]["podMetricsEndpoints"]
    ]
    ours = {
        rule["replacement"]
        for end in ends
        for rule in end["relabelings"]
        if rule.get("targetLabel") == "job"
    }
    for each in of_kind(name, "PrometheusRule"):
        for rule in [rule for group in each["spec"]["groups"] for rule in group["rules"]]:
            for jobs in re.findall(r"\bup(?:\{(.*?)\})?[^\w{]", rule["expr"]):
                asked = re.fullmatch(r'job=~?"([\w|]+)"', jobs)
                assert asked, f"{rule['alert']} is about all that a cluster's Prometheus watches"
                assert set(asked[1].split("|")) <= ours, rule["alert"]


@every_overlay
def test_only_gateways_reach_the_control_api_of_triton(name: str) -> None:
    all_pods = {pod.owner: pod for pod in pods(name)}
    triton = all_pods["Deployment/triton"]
    allowed = set()
    for policy in of_kind(name, "NetworkPolicy"):
        if not selected(policy["spec"]["podSelector"], triton.labels):
            continue
        for rule in policy["spec"].get("ingress", ()):
            if not any(triton.ports[port["port"]] == 8001 for port in rule["ports"]):
                continue
            for peer in rule["from"]:
                assert peer.keys() == {"podSelector"}
                selector = peer["podSelector"]
                allowed |= {o for o, pod in all_pods.items() if selected(selector, pod.labels)}
    assert allowed == {"Deployment/gateway"}


@every_overlay
def test_images_have_a_version_and_ours_a_dockerfile(name: str) -> None:
    for pod in pods(name):
        for container in pod.containers:
            image, _, version = re.fullmatch(r"([^:@]+)([:@])(.+)", container["image"]).groups()
            assert re.match(r"v?\d+\.\d+|sha256:", version), container["image"]
            if image.startswith("nuclei-"):
                assert (K8S / "images" / image / "Dockerfile").is_file()


@every_overlay
def test_secrets_are_referred_to_and_never_held(name: str) -> None:
    assert not of_kind(name, "Secret")
    for secret, key in secrets(list(overlay(name))):
        assert key in SECRETS[secret]
    documented = (ROOT / "docs" / "kubernetes.md").read_text()
    for secret in {secret for secret, _ in secrets(list(overlay(name)))}:
        assert f"create secret generic {secret}" in documented or (
            f"create secret tls {secret}" in documented
        )


@every_overlay
def test_everything_bears_our_names(name: str) -> None:
    cluster_wide = {"Namespace", "PriorityClass"}
    for each in overlay(name):
        assert each["metadata"]["labels"].items() >= NAMES.items(), each["metadata"]["name"]
        assert each["kind"] in cluster_wide or each["metadata"]["namespace"] == "nuclei"
    classes = {each["metadata"]["name"] for each in of_kind(name, "PriorityClass")}
    for pod in pods(name):
        assert pod.labels.items() >= NAMES.items(), pod.owner
        assert pod.spec["priorityClassName"] in classes, pod.owner


@every_overlay
def test_replicas_of_a_production_survive_the_loss_of_a_node(name: str) -> None:
    if name == "cpu":
        return
    budgets = [each["spec"]["selector"] for each in of_kind(name, "PodDisruptionBudget")]
    for each in of_kind(name, "Deployment"):
        if each["spec"].get("replicas", 2) > 1:
            labels: Any = each["spec"]["template"]["metadata"]["labels"]
            assert any(selected(budget, labels) for budget in budgets), each["metadata"]["name"]
