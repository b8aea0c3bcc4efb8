"""A name server: every name stands for the addresses that the test says."""

import socket
import threading
from types import TracebackType
from typing import Self

A_RECORD = 1
HEADER_BYTES = 12


class NameServer:
    """Answers over UDP on loopback, while entered.

    Attributes:
        hosts: IPv4 addresses that every name stands for.
        port: where it answers.
    """

    def __init__(self, hosts: list[str]) -> None:
        self.hosts = hosts
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.1)
        self.port = int(self._socket.getsockname()[1])
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                query, caller = self._socket.recvfrom(512)
            except TimeoutError:
                continue
            self._socket.sendto(self._answer(query), caller)

    def _answer(self, query: bytes) -> bytes:
        """As RFC 1035, section 4, has it."""
        end = HEADER_BYTES
        while query[end]:
            end += query[end] + 1
        kind = int.from_bytes(query[end + 1 : end + 3])
        question = query[HEADER_BYTES : end + 5]
        hosts = self.hosts if kind == A_RECORD else []
        counts = b"".join(count.to_bytes(2) for count in (1, len(hosts), 0, 0))
        # The name of the question, an A record, of the internet, valid for 0 s, of 4 bytes.
        record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04"
        records = b"".join(record + socket.inet_aton(host) for host in hosts)
        return query[:2] + b"\x81\x80" + counts + question + records
