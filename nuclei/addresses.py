"""Where the parts of a running service listen, as `nuclei serve` notes it in its state folder."""

from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from nuclei.whole_file import write_whole

NAME = "addresses.json"


@dataclass(frozen=True)
class Tls:
    """What a process of this machine needs to call a gateway with TLS.

    Attributes:
        certificate: PEM file with the gateway's certificate, which is to be trusted.
        name: a name in that certificate.
        own_certificate: PEM file with the certificate to show; None where none is required.
        own_key: PEM file with its key.
    """

    certificate: Path
    name: str
    own_certificate: Path | None = None
    own_key: Path | None = None


@dataclass(frozen=True)
class Addresses:
    """The addresses of one service, each reachable from this machine.

    Attributes:
        gateway: host:port of the gateway's HTTP API, with its metrics.
        grpc: host:port of its gRPC API.
        triton: host:port of Triton's metrics.
        sync: host:port of sync, None where none runs.
        tls: of the gateway; None for plain text.
    """

    gateway: str
    grpc: str
    triton: str
    sync: str | None = None
    tls: Tls | None = None


_ADDRESSES: TypeAdapter[Addresses] = TypeAdapter(Addresses)


def note(home: Path, addresses: Addresses) -> None:
    """Write them down in the folder of a gateway; raises OSError when that is impossible."""
    home.mkdir(parents=True, exist_ok=True)
    write_whole(home / NAME, dumps(asdict(addresses), default=str, indent=1) + "\n")


def forget(home: Path) -> None:
    """Remove what `note` wrote: the service has ended."""
    (home / NAME).unlink(missing_ok=True)


def noted(state: Path) -> dict[Path, Addresses]:
    """The services that have noted where they listen in a state folder, by the file of each.

    One that was killed is still there. A file that is no such note is left out.
    """
    found = {}
    for file in sorted(state.glob(f"gateway-*/{NAME}")):
        try:
            found[file] = _ADDRESSES.validate_json(file.read_bytes())
        except (OSError, ValidationError):
            continue
    return found
