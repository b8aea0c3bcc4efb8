"""TCP ports of this machine."""

import random
import socket
from contextlib import suppress

from nuclei.errors import MissingPrerequisite

LOOPBACK = "127.0.0.1"
_ANY_ADDRESSES = ("0.0.0.0", "::", "")
# Below those that Linux gives to connections: none of them takes a port before its server does.
FREE = range(20_000, 32_768)


def reachable(host: str) -> str:
    """A host by which this machine reaches what listens on an address."""
    return LOOPBACK if host in _ANY_ADDRESSES else host


def check_free(host: str, port: int, what: str, setting: str) -> None:
    """Check that a server can listen on a port.

    Args:
        host: address to listen on.
        port: the port.
        what: whose port it is, for the message.
        setting: how to choose another, for the message.

    Raises:
        MissingPrerequisite: the port is taken, or may not be used.
    """
    try:
        _bind(host, port).close()
    except OSError as error:
        raise MissingPrerequisite(
            f"port {port} for {what} cannot be used ({(error.strerror or str(error)).lower()}): "
            f"stop what uses it or choose another with {setting}"
        ) from None


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nothing uses now, all different."""
    held: dict[int, socket.socket] = {}
    for port in random.SystemRandom().sample(FREE, len(FREE)):
        if len(held) == count:
            break
        with suppress(OSError):
            held[port] = _bind(LOOPBACK, port)
    for each in held.values():
        each.close()
    return list(held)


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    held = socket.socket(family, kind, protocol)
    try:
        # As servers do: a port whose last connections are still closing is free.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(address)
        held.listen()
    except OSError:
        held.close()
        raise
    return held
