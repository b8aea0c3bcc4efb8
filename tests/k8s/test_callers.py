"""The routes to the gateway that the documents show lead to Services that exist."""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
HEADING = "## How callers reach the gateway\n"


def documented() -> list[dict[str, Any]]:
    """The objects of that section."""
    section = (ROOT / "docs" / "kubernetes.md").read_text().split(HEADING)[1].split("\n## ")[0]
    blocks = [block.split("```")[0] for block in section.split("```yaml\n")[1:]]
    return [found for block in blocks for found in yaml.safe_load_all(block)]


def in_base(kind: str, name: str) -> dict[str, Any]:
    for file in sorted((ROOT / "k8s" / "base").glob("*.yaml")):
        for found in yaml.safe_load_all(file.read_text()):
            if found["kind"] == kind and found["metadata"]["name"] == name:
                return dict(found)
    raise LookupError(f"no {kind} {name} in k8s/base")


def test_routes_lead_to_ports_of_services() -> None:
    routes = [found for found in documented() if found["kind"].endswith("Route")]
    assert {route["kind"] for route in routes} == {"GRPCRoute", "HTTPRoute"}
    for route in routes:
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                service = in_base("Service", backend["name"])
                assert backend["port"] in {port["port"] for port in service["spec"]["ports"]}


def test_policies_are_of_routes_that_are_there() -> None:
    objects = documented()
    there = {(found["kind"], found["metadata"]["name"]) for found in objects}
    (policy,) = (found for found in objects if found["kind"] == "BackendTrafficPolicy")
    for target in policy["spec"]["targetRefs"]:
        assert (target["kind"], target["name"]) in there


def test_the_headless_service_selects_the_pods_of_the_gateway() -> None:
    service = in_base("Service", "gateway-pods")
    assert service["spec"]["clusterIP"] == "None"
    gateway = in_base("Service", "gateway")
    assert service["spec"]["selector"] == gateway["spec"]["selector"]
    assert service["spec"]["ports"] == gateway["spec"]["ports"]
    labels = in_base("Deployment", "gateway")["spec"]["selector"]["matchLabels"]
    assert service["spec"]["selector"] == labels


def test_envoy_finds_the_pods_by_the_headless_service() -> None:
    envoy = yaml.safe_load((ROOT / "k8s" / "envoy.yaml").read_text())["static_resources"]
    (cluster,) = envoy["clusters"]
    (endpoints,) = cluster["load_assignment"]["endpoints"]
    (endpoint,) = endpoints["lb_endpoints"]
    address = endpoint["endpoint"]["address"]["socket_address"]
    service = in_base("Service", "gateway-pods")
    assert address["address"] == "gateway-pods.nuclei.svc.cluster.local"
    assert address["port_value"] in {port["port"] for port in service["spec"]["ports"]}
    (listener,) = envoy["listeners"]
    (chain,) = listener["filter_chains"]
    (manager,) = chain["filters"]
    (host,) = manager["typed_config"]["route_config"]["virtual_hosts"]
    (route,) = host["routes"]
    assert route["route"]["cluster"] == cluster["name"]
    # Envoy ends a call after 15 s where nothing is said, and a stream lasts for hours.
    assert route["route"]["timeout"] == "0s"
    assert route["route"]["retry_policy"]["retry_on"] == "connect-failure,refused-stream"
