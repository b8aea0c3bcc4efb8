"""How a command reaches a running gateway."""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import grpc

    from nuclei.client import Client

DEFAULT_ADDRESS = "localhost:50051"
_PANEL = "Gateway"

AddressOption = Annotated[
    str, typer.Option(help="host:port of the gateway's gRPC server.", rich_help_panel=_PANEL)
]
TokenOption = Annotated[
    str,
    typer.Option(
        help="Token of the gateway.",
        envvar="NUCLEI_TOKEN",
        show_envvar=True,
        rich_help_panel=_PANEL,
    ),
]
TlsCaOption = Annotated[
    Path | None,
    typer.Option(
        help="PEM file of the authority that signed the gateway's certificate; turns TLS on.",
        rich_help_panel=_PANEL,
    ),
]
TlsCertificateOption = Annotated[
    Path | None,
    typer.Option(help="PEM file of your certificate, for mTLS.", rich_help_panel=_PANEL),
]
TlsKeyOption = Annotated[
    Path | None, typer.Option(help="PEM file of its key.", rich_help_panel=_PANEL)
]


@dataclass(frozen=True)
class Gateway:
    """A gateway and the credentials for it; attributes as the arguments of `Client`."""

    address: str = DEFAULT_ADDRESS
    token: str = ""
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None

    def client(self) -> "Client":
        """A new client; raises InvalidOption when the TLS files cannot be used."""
        from nuclei.client import Client

        return Client(
            self.address,
            token=self.token,
            tls_ca=self.tls_ca,
            tls_certificate=self.tls_certificate,
            tls_key=self.tls_key,
        )

    def frames_in_flight(self) -> int:
        """How many frames the gateways behind the address take at a time.

        Raises:
            EngineUnavailable, DeadlineExceeded, Unauthenticated: none answers.
        """
        with self.client() as client:
            each = client.server_info().limits.max_frames_in_flight
        host, _, port = self.address.rpartition("/")[2].rpartition(":")
        try:
            found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        except OSError:
            return each
        return each * (len({one[4][0] for one in found}) if self.address.startswith("dns:") else 1)

    def channel(self) -> "grpc.Channel":
        """A new channel; raises InvalidOption when the address or the TLS files cannot be used."""
        from nuclei.client.connection import open_channel

        return open_channel(self.address, self.tls_ca, self.tls_certificate, self.tls_key)
