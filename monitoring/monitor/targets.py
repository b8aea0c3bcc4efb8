"""What Prometheus is to scrape: the service that runs on this machine, or what is named."""

import json
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nuclei.addresses import Addresses, Tls, noted
from nuclei.errors import InvalidOption, MissingPrerequisite
from nuclei.process.ports import LOOPBACK
from nuclei.quoting import quoted

GATEWAY, TRITON, SYNC, PROBE, NODE = "gateway", "triton", "sync", "probe", "node"
# Where Debian's node exporter listens once it is installed.
NODE_EXPORTER = f"{LOOPBACK}:9100"

_TARGET = re.compile(r"([a-z]+)=([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
_CONNECT_S = 1.0


@dataclass(frozen=True)
class Targets:
    """What is scraped.

    Attributes:
        addresses: host:port of each target, by job.
        tls: of the gateways; None for plain text.
        grpc: host:port of a gateway's gRPC API, for the probe; None where it is not known.
    """

    addresses: Mapping[str, tuple[str, ...]]
    tls: Tls | None = None
    grpc: str | None = None

    def write(self, folder: Path, jobs: Iterable[str]) -> None:
        """Write a file for each job, as Prometheus' `file_sd_configs` read them.

        Raises:
            OSError: the folder cannot be written.
        """
        for job in jobs:
            addresses = self.addresses.get(job, ())
            groups = [{"targets": list(addresses)}] if addresses else []
            # JSON is YAML.
            (folder / f"{job}.yaml").write_text(json.dumps(groups) + "\n")


def running_service(state: Path) -> Targets:
    """The service that `nuclei serve` runs with this state folder.

    Raises:
        MissingPrerequisite: none runs.
    """
    services = noted(state)
    running = {file: each for file, each in services.items() if _listens(each.gateway)}
    if not running:
        raise MissingPrerequisite(_nothing_runs(state, services))
    first = next(iter(running.values()))
    addresses = {
        GATEWAY: tuple(each.gateway for each in running.values()),
        TRITON: tuple(each.triton for each in running.values()),
        SYNC: tuple(each.sync for each in running.values() if each.sync is not None),
        NODE: (NODE_EXPORTER,) if _listens(NODE_EXPORTER) else (),
    }
    return Targets(addresses, first.tls, _by_name(first))


def named_targets(given: Iterable[str], jobs: Iterable[str]) -> Targets:
    """What `--target JOB=HOST:PORT` names.

    Args:
        given: the options.
        jobs: that Prometheus' configuration has.

    Raises:
        InvalidOption: one is no target.
    """
    known = sorted(jobs)
    addresses: dict[str, tuple[str, ...]] = {}
    for option in given:
        match = _TARGET.fullmatch(option)
        if match is None or not 1 <= int(match[3]) <= 65535:
            raise InvalidOption(
                f"--target is {quoted(option)}; expected JOB=HOST:PORT, such as "
                "gateway=10.0.0.5:3000"
            )
        if match[1] not in known:
            raise InvalidOption(
                f"--target names the job {quoted(match[1])}; expected one of {', '.join(known)}"
            )
        addresses[match[1]] = (*addresses.get(match[1], ()), f"{match[2]}:{match[3]}")
    return Targets(addresses)


def _by_name(service: Addresses) -> str:
    """Where gRPC is called: with TLS by a name that the certificate has."""
    if service.tls is None:
        return service.grpc
    return f"{service.tls.name}:{service.grpc.rpartition(':')[2]}"


def _nothing_runs(state: Path, services: Mapping[Path, Addresses]) -> str:
    found = f"no service runs with the state folder {state}"
    if services:
        silent = ", ".join(each.gateway for each in services.values())
        found = f"the service of the state folder {state} does not listen on {silent} any more"
    return (
        f"{found}: start it in another terminal with `make serve` (or `nuclei serve`), or name its "
        "folder with --state, or its addresses with --target gateway=HOST:PORT --target "
        "triton=HOST:PORT"
    )


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except OSError:
        return False
    return True
