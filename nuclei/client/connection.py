"""How a client reaches its gateway: the channel, the credentials, and what a failed call raises."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from nuclei import errors
from nuclei.client.messages import error_of

DEFAULT_ADDRESS = "localhost:50051"
MAX_MESSAGE_BYTES = 2**31 - 1

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A server that comes back is found within a second; gRPC's own back-off grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A server that disappears without closing the connection is noticed within half a minute.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)


def authorization(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata that carries the token; empty without one."""
    return (("authorization", f"Bearer {token}"),) if token else ()


def credentials(
    ca: Path | None, certificate: Path | None, key: Path | None
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


def _pem(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise errors.InvalidOption(
            f"{path} cannot be read ({error.strerror}); expected a PEM file"
        ) from error


@contextmanager
def translated() -> Iterator[None]:
    """Raise a failed call as the error that the server raised."""
    try:
        yield
    except grpc.RpcError as error:
        raise error_of(error) from None
