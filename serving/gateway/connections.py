"""How many connections the gateway keeps, so that no caller takes those of all others.

Where there are too many, those end that have been silent longest: a new caller always gets in. A
connection with a stream or a frame is never ended for its silence.
"""

import asyncio
import resource
from collections import defaultdict

from nuclei.errors import InvalidOption
from serving.gateway import metrics
from serving.gateway.admission import Admission, host_of
from serving.gateway.peers import Peer, Peers
from serving.gateway.settings import GatewaySettings

_INTERVAL_S = 0.25
# Files, and connections to Triton and within the process.
_OWN_DESCRIPTORS = 256


def provide_descriptors(settings: GatewaySettings) -> None:
    """Raise this process's limit of open files to what its connections may need.

    Raises:
        InvalidOption: the system allows fewer.
    """
    needed = 2 * settings.max_accepted_connections + _OWN_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise InvalidOption(
            f"NUCLEI_MAX_CONNECTIONS is {settings.max_connections}, for which this process needs "
            f"{needed} open files; it may have {hard}: raise the limit (ulimit -n, systemd's "
            "LimitNOFILE=) or lower the setting"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class ConnectionLimit:
    """Keeps the connections at each port below the limit, and those of a host below half of it."""

    def __init__(self, settings: GatewaySettings, admission: Admission) -> None:
        self._most = settings.max_connections
        self._ports = {settings.http_port, settings.grpc_port}
        self._admission = admission
        self._peers = Peers()

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            self._enforce()
            await asyncio.sleep(_INTERVAL_S)

    def _enforce(self) -> None:
        by_port: defaultdict[int, list[Peer]] = defaultdict(list)
        for peer in self._peers.of_ports(self._ports):
            by_port[peer.port].append(peer)
        for peers in by_port.values():
            by_host: defaultdict[str, list[Peer]] = defaultdict(list)
            for peer in peers:
                by_host[host_of(peer.name)].append(peer)
            kept: list[Peer] = []
            for of_host in by_host.values():
                kept += self._without_silent(of_host, self._most // 2)
            self._without_silent(kept, self._most)

    def _without_silent(self, peers: list[Peer], most: int) -> list[Peer]:
        """End the silent ones of these beyond a number; returns the others."""
        if len(peers) <= most:
            return peers
        busy = self._admission.connections()
        silent = sorted(
            (peer for peer in peers if peer.name not in busy), key=lambda peer: -peer.silent_s
        )
        ended = {peer.name for peer in silent[: len(peers) - most]}
        for name in ended:
            self._peers.end(name)
        metrics.CONNECTIONS_ENDED.inc(len(ended))
        return [peer for peer in peers if peer.name not in ended]
