"""A real Triton on an address of the network, as in a pod of its own."""

from pathlib import Path

import psutil

from nuclei.process.ports import free_ports
from serving.triton.control import TritonControl
from serving.triton.server import TritonServer


class NetworkTriton(TritonServer):
    """Triton whose gRPC API has a host and a port instead of a socket."""

    def __init__(self, repository: Path, state: Path, host: str, port: int) -> None:
        self._listen = {"--grpc-address": host, "--grpc-port": str(port)}
        (metrics_port,) = free_ports(1)
        super().__init__(repository, state, metrics_port=metrics_port)
        self.address = f"{host}:{port}"
        self.control = TritonControl(self.address)

    def kill(self) -> None:
        """End it at once, as the kernel does where memory is short."""
        assert self.pid is not None
        psutil.Process(self.pid).kill()

    def _command(self) -> list[str]:
        arguments = (argument.partition("=") for argument in super()._command())
        return [
            "".join((name, equals, self._listen.get(name, value)))
            for name, equals, value in arguments
        ]

    def _is_live(self) -> bool:
        return self.control.is_live()
