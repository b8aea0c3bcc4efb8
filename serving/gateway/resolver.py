"""Where the Tritons behind a host name are: looked up again and again, off the event loop.

The system's resolver is asked, so that search domains and hosts files count; it may take half a
minute where the name server is gone.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from serving.gateway import metrics
from serving.gateway.settings import DNS
from serving.logs import Event

logger = logging.getLogger(__name__)

EVERY_S = 2.0
# A name that has not been answered for so long counts as not found.
PATIENCE_S = 5.0

# What `socket.getaddrinfo` does: addresses of a host and a port.
LookUp = Callable[[str, int], Sequence[str]]


def look_up(host: str, port: int) -> Sequence[str]:
    """The addresses of a host, host:port each; raises OSError where there is none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    hosts = {str(address[0]): family for family, *_, address in found}
    return [
        f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
        for host, family in hosts.items()
    ]


@dataclass
class _Name:
    """A name, and what it stood for when it was last found.

    Attributes:
        host, port: what is looked up.
        addresses: host:port each.
        failure: why it could not be looked up last; empty where it could.
    """

    host: str
    port: int
    addresses: frozenset[str] = field(default_factory=frozenset)
    failure: str = ""


class Resolver:
    """Follows the addresses of names; one that cannot be looked up keeps those that it had."""

    def __init__(
        self,
        names: Sequence[str],
        reach: Callable[[frozenset[str]], None],
        look_up: LookUp = look_up,
    ) -> None:
        """Args:
        names: `dns:///host:port` each.
        reach: told all addresses, whenever they are others; in the event loop.
        look_up: finds the addresses of a host; called in a thread.
        """
        split = (name.removeprefix(DNS).rpartition(":") for name in names)
        self._names = [_Name(host, int(port)) for host, _, port in split]
        self._reach = reach
        self._look_up = look_up

    def line(self) -> str:
        """What the names stand for, for people; empty without names."""
        if not self._names:
            return ""
        parts = []
        for name in self._names:
            count = len(name.addresses)
            kept = f", not found now ({name.failure}): these are of before" if name.failure else ""
            parts.append(f"{count} {'address' if count == 1 else 'addresses'} of {name.host}{kept}")
        return f"triton: {'; '.join(parts)}"

    async def watch(self) -> None:
        """Follow all names, until cancelled."""
        await asyncio.gather(*(self._follow(name) for name in self._names))

    async def _follow(self, name: _Name) -> None:
        while True:
            asked = self._ask(name)
            _, late = await asyncio.wait([asked], timeout=PATIENCE_S)
            if late:
                self._note_failure(name, f"no answer for {PATIENCE_S:.0f} s")
            try:
                addresses = frozenset(await asked)
            except Exception as error:  # whatever it is, the addresses of before are better
                self._note_failure(name, str(error) or type(error).__name__)
            else:
                self._note(name, addresses)
            await asyncio.sleep(EVERY_S)

    def _ask(self, name: _Name) -> asyncio.Future[Sequence[str]]:
        """Look it up in a thread that the end of this process need not wait for."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Sequence[str]] = loop.create_future()

        def settle(found: Sequence[str], error: Exception | None) -> None:
            if answer.done():
                return
            if error is None:
                answer.set_result(found)
            else:
                answer.set_exception(error)

        def run() -> None:
            found: Sequence[str] = ()
            failed: Exception | None = None
            try:
                found = self._look_up(name.host, name.port)
            except Exception as error:
                failed = error
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, found, failed)

        threading.Thread(target=run, name=f"look up {name.host}", daemon=True).start()
        return answer

    def _note(self, name: _Name, addresses: frozenset[str]) -> None:
        if name.failure:
            logger.info(Event("found again", name=name.host, addresses=len(addresses)))
        name.failure = ""
        if addresses == name.addresses:
            return
        come = ", ".join(sorted(addresses - name.addresses))
        gone = ", ".join(sorted(name.addresses - addresses))
        logger.info(Event("addresses", name=name.host, count=len(addresses), come=come, gone=gone))
        name.addresses = addresses
        self._reach(frozenset[str]().union(*(each.addresses for each in self._names)))

    def _note_failure(self, name: _Name, why: str) -> None:
        metrics.FAILED_LOOKUPS.inc()
        if not name.failure:
            logger.error(
                Event("not found", name=name.host, why=why, kept_addresses=len(name.addresses))
            )
        name.failure = why
