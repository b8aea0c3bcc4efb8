"""The callers' TCP connections of this process, as the kernel sees them.

gRPC tells neither who is connected nor what has arrived of a message that is not whole yet.
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote

# Of Linux's struct tcp_info.
_LAST_RECEIVED_MS = struct.Struct("=52xI")
_BYTES_RECEIVED = struct.Struct("=128xQ")
_INFO_BYTES = 136


@dataclass(frozen=True)
class Peer:
    """One connection.

    Attributes:
        name: HOST:PORT of the caller.
        port: of this process, at which it came in.
        silent_s: time since it last sent something, seconds.
    """

    name: str
    port: int
    silent_s: float


def name_of(host: str, port: int) -> str:
    """The name of a caller: an IPv4 address looks the same whatever kind of socket it came by."""
    return f"{host.removeprefix('::ffff:')}:{port}"


def name_in_grpc(peer: str) -> str:
    """The same, of what gRPC calls a peer, such as `ipv6:%5B::1%5D:50000`."""
    address = unquote(peer.partition(":")[2])
    host, _, port = address.rpartition(":")
    return name_of(host.strip("[]"), int(port)) if port.isdecimal() else peer


class Peers:
    """Finds connections by the names of their callers."""

    def __init__(self) -> None:
        self._descriptors: dict[str, int] = {}

    def of_ports(self, ports: set[int]) -> list[Peer]:
        """The connections that came in at these ports."""
        self._descriptors.clear()
        found = []
        for entry in os.listdir("/proc/self/fd"):
            try:
                with _borrowed(int(entry)) as connection:
                    port = connection.getsockname()[1]
                    if port not in ports:
                        continue
                    name = name_of(*connection.getpeername()[:2])
                    info = _info(connection)
            except (OSError, IndexError, TypeError):
                continue  # it is no connection over TCP, or no longer
            self._descriptors[name] = int(entry)
            found.append(Peer(name, port, _LAST_RECEIVED_MS.unpack_from(info)[0] / 1e3))
        return found

    def received(self, name: str, port: int) -> int:
        """Bytes received from a caller since it connected; 0 when it has left."""
        descriptor = self._descriptors.get(name)
        if descriptor is None:
            self.of_ports({port})
            descriptor = self._descriptors.get(name)
        if descriptor is None:
            return 0
        try:
            with _borrowed(descriptor) as connection:
                if name_of(*connection.getpeername()[:2]) == name:
                    return int(_BYTES_RECEIVED.unpack_from(_info(connection))[0])
        except OSError:
            pass
        self._descriptors.pop(name, None)
        return 0

    def end(self, name: str) -> None:
        """Shut a connection down; whoever serves it sees that its caller has left."""
        try:
            # A descriptor of our own: nobody can close it and open another meanwhile.
            with socket.socket(fileno=os.dup(self._descriptors[name])) as connection:
                if name_of(*connection.getpeername()[:2]) == name:
                    connection.shutdown(socket.SHUT_RDWR)
        except (OSError, KeyError):
            pass  # it has left


def _info(connection: socket.socket) -> bytes:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)


@contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """A socket of this process to look at; it stays open."""
    # Named kinds spare asking for them; addresses of IPv4 fit into those of IPv6.
    connection = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 0, fileno=descriptor)
    try:
        yield connection
    finally:
        connection.detach()
