"""How a client reaches its gateway: the channel, the credentials, and what a failed call raises."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from nuclei import errors
from nuclei.client.arguments import checked
from nuclei.client.messages import error_of

DEFAULT_ADDRESS = "localhost:50051"
MAX_MESSAGE_BYTES = 2**31 - 1
MAX_PEM_BYTES = 2**20

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A server that comes back is found within a second; gRPC's own back-off grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # In spite of its name, how long an attempt may take; a busy server or TLS far away takes long.
    ("grpc.min_reconnect_backoff_ms", 5000),
    # A server that disappears without closing the connection is noticed within half a minute.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # The address is that of the gateway itself; proxies of the environment are for the internet.
    ("grpc.enable_http_proxy", 0),
)
DNS = "dns:"
# Of a name that stands for several gateways: calls go to all of them in turn.
SHARING_OPTIONS = (
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
    # One that has come is found when a connection ends; by default only every 30 s.
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
)


def checked_address(address: str) -> str:
    """The address; raises InvalidOption for one that gRPC cannot take."""
    expected = (
        "host:port of the gateway's gRPC server, such as localhost:50051, or dns:///host:port for "
        "all gateways behind the host"
    )
    with checked("address", address, expected):
        address.encode()
        if not address.isprintable() or not address or address.startswith(("http:", "https:")):
            raise ValueError(address)
    return address


def channel_options(address: str) -> tuple[tuple[str, str | int], ...]:
    """How a channel to this address behaves: one to `dns:///host:port` uses all its gateways."""
    return (*CHANNEL_OPTIONS, *(SHARING_OPTIONS if address.startswith(DNS) else ()))


def authorization(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata that carries the token; empty without one.

    Raises:
        InvalidOption: it cannot be sent.
    """
    if not isinstance(token, str) or not (token.isascii() and token.isprintable()):
        raise errors.InvalidOption(
            "the token is not printable ASCII; expected the gateway's NUCLEI_TOKEN, without a line "
            "end"
        )
    return (("authorization", f"Bearer {token}"),) if token else ()


def credentials(
    ca: str | Path | None, certificate: str | Path | None, key: str | Path | None
) -> grpc.ChannelCredentials | None:
    """What a channel with TLS needs; None is plain text.

    Raises:
        InvalidOption: a file cannot be read, or some are missing.
    """
    if ca is None and certificate is None and key is None:
        return None
    if ca is None or (certificate is None) != (key is None):
        raise errors.InvalidOption(
            "TLS needs tls_ca, and tls_certificate and tls_key together or not at all"
        )
    return grpc.ssl_channel_credentials(
        _pem(ca),
        None if key is None else _pem(key),
        None if certificate is None else _pem(certificate),
    )


def open_channel(
    address: str, ca: str | Path | None, certificate: str | Path | None, key: str | Path | None
) -> grpc.Channel:
    """A channel that connects at its first call, with TLS where there is an authority.

    Raises:
        InvalidOption: the address cannot be one; a file cannot be read, or some are missing.
    """
    address = checked_address(address)
    tls = credentials(ca, certificate, key)
    if tls is None:
        return grpc.insecure_channel(address, channel_options(address))
    return grpc.secure_channel(address, tls, channel_options(address))


def _pem(path: str | Path) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_PEM_BYTES)
    except OSError as error:
        raise errors.InvalidOption(
            f"{path} cannot be read ({error.strerror}); expected a PEM file"
        ) from error
    if b"-----BEGIN " not in data:
        raise errors.InvalidOption(f"{path} is no PEM file; expected one with -----BEGIN ...-----")
    return data


@contextmanager
def translated() -> Iterator[None]:
    """Raise a failed call as the error that the server raised."""
    try:
        yield
    except grpc.RpcError as error:
        raise error_of(error) from None
