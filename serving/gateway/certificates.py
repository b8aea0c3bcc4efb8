"""TLS of the gateway: its own certificate, and those that it requires of its callers."""

import ssl
from pathlib import Path
from typing import Any

import grpc

from nuclei.addresses import Tls
from nuclei.client.connection import CHANNEL_OPTIONS
from nuclei.errors import InvalidOption
from serving.gateway.settings import GatewaySettings

# TLS 1.2 with forward secrecy; those of TLS 1.3 are always allowed.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


def check_certificates(settings: GatewaySettings) -> None:
    """Check that the certificates and the key can be used.

    Raises:
        InvalidOption: they cannot; says which setting is wrong.
    """
    for file, setting in (
        (settings.tls_certificate, "NUCLEI_TLS_CERTIFICATE"),
        (settings.tls_key, "NUCLEI_TLS_KEY"),
        (settings.tls_client_ca, "NUCLEI_TLS_CLIENT_CA"),
        (settings.tls_own_certificate, "NUCLEI_TLS_OWN_CERTIFICATE"),
        (settings.tls_own_key, "NUCLEI_TLS_OWN_KEY"),
    ):
        _check_readable(file, setting)
    if settings.tls_client_ca is not None and settings.tls_certificate is None:
        raise InvalidOption(
            "NUCLEI_TLS_CLIENT_CA needs TLS: set NUCLEI_TLS_CERTIFICATE and NUCLEI_TLS_KEY too"
        )
    _check_pair(settings.tls_certificate, settings.tls_key, "NUCLEI_TLS")
    _check_pair(settings.tls_own_certificate, settings.tls_own_key, "NUCLEI_TLS_OWN")
    _server_context(settings)


def not_after(settings: GatewaySettings) -> float | None:
    """When the first of the server's certificates ends, seconds since 1970; None without TLS.

    Raises:
        InvalidOption: one cannot be read.
    """
    if settings.tls_certificate is None:
        return None
    # Takes 10 MB that a gateway without TLS does not need.
    from cryptography import x509

    try:
        chain = x509.load_pem_x509_certificates(settings.tls_certificate.read_bytes())
    except ValueError as error:
        raise InvalidOption(
            f"NUCLEI_TLS_CERTIFICATE cannot be used ({error}); expected a PEM file of certificates"
        ) from None
    return min(each.not_valid_after_utc.timestamp() for each in chain)


def server_credentials(settings: GatewaySettings) -> grpc.ServerCredentials | None:
    """Credentials of the gRPC server; None is plain text."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    authorities = settings.tls_client_ca
    return grpc.ssl_server_credentials(
        [(settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())],
        None if authorities is None else authorities.read_bytes(),
        require_client_auth=authorities is not None,
    )


def http_tls(settings: GatewaySettings) -> ssl.SSLContext | None:
    """The same for the HTTP server."""
    return None if settings.tls_certificate is None else _server_context(settings)


def bentoml_tls(settings: GatewaySettings) -> dict[str, Any]:
    """The same for BentoML's HTTP server, as its `ssl` configuration."""
    if settings.tls_certificate is None:
        return {"enabled": False}
    tls: dict[str, Any] = {
        "enabled": True,
        "certfile": str(settings.tls_certificate),
        "keyfile": str(settings.tls_key),
        "ciphers": CIPHERS,
    }
    if settings.tls_client_ca is not None:
        tls |= {"ca_certs": str(settings.tls_client_ca), "cert_reqs": int(ssl.CERT_REQUIRED)}
    return tls


def check_loopback(settings: GatewaySettings) -> None:
    """Check that a process of this machine can call this gateway.

    Raises:
        InvalidOption: certificates cannot be used, or the gateway would not accept ours.
    """
    check_certificates(settings)
    if settings.tls_certificate is not None:
        _name(settings)


def loopback_tls(settings: GatewaySettings) -> ssl.SSLContext | None:
    """What a process of this machine needs to call this gateway; None for plain text.

    It trusts the gateway's own certificate only, with any host name in it.
    """
    if settings.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(settings.tls_certificate)
    if settings.tls_client_ca is not None:
        context.load_cert_chain(*_own_identity(settings))
    return context


def loopback_identity(settings: GatewaySettings) -> Tls | None:
    """The same for a program that reads the files itself."""
    if settings.tls_certificate is None:
        return None
    identity: tuple[Path | None, Path | None] = (None, None)
    if settings.tls_client_ca is not None:
        certificate, key = _own_identity(settings)
        identity = (certificate.resolve(), key.resolve())
    return Tls(settings.tls_certificate.resolve(), _name(settings), *identity)


def loopback_channel(settings: GatewaySettings, address: str) -> grpc.Channel:
    """A gRPC channel of a process of this machine to this gateway.

    Args:
        settings: of the gateway; `check_loopback` accepts them.
        address: host:port of its gRPC server.
    """
    if settings.tls_certificate is None:
        return grpc.insecure_channel(address, CHANNEL_OPTIONS)
    identity: tuple[bytes | None, bytes | None] = (None, None)
    if settings.tls_client_ca is not None:
        certificate, key = _own_identity(settings)
        identity = (key.read_bytes(), certificate.read_bytes())
    credentials = grpc.ssl_channel_credentials(settings.tls_certificate.read_bytes(), *identity)
    options = (*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", _name(settings)))
    return grpc.secure_channel(address, credentials, options)


def _check_readable(file: Path | None, setting: str) -> None:
    if file is None:
        return
    try:
        file.read_bytes()
    except OSError as error:
        raise InvalidOption(
            f"{setting} is {file}, which cannot be read ({error.strerror}); expected a PEM file"
        ) from None


def _check_pair(certificate: Path | None, key: Path | None, prefix: str) -> None:
    settings = f"{prefix}_CERTIFICATE and {prefix}_KEY"
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        raise InvalidOption(f"{settings} go together: set both")
    try:
        # Never prompt for a password: the process may have no terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, lambda: "")
    except (OSError, ValueError) as error:
        mismatch = isinstance(error, ssl.SSLError) and "MISMATCH" in (error.reason or "")
        reason = "the key is another's" if mismatch else "they do not hold what they should"
        raise InvalidOption(
            f"{settings} cannot be used: {reason}; expected PEM files, the key without a password "
            "and belonging to the certificate"
        ) from None


def _server_context(settings: GatewaySettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(CIPHERS)
    if settings.tls_certificate is not None:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    if settings.tls_client_ca is not None:
        try:
            context.load_verify_locations(settings.tls_client_ca)
        except (OSError, ValueError):
            raise InvalidOption(
                "NUCLEI_TLS_CLIENT_CA cannot be used: it holds no certificate; expected a PEM file "
                "with the certificates of authorities"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _own_identity(settings: GatewaySettings) -> tuple[Path, Path]:
    """Certificate and key of this machine's own calls."""
    certificate, key = settings.tls_certificate, settings.tls_key
    if settings.tls_own_certificate is not None:
        certificate, key = settings.tls_own_certificate, settings.tls_own_key
    assert certificate is not None, "checked at start"
    assert key is not None, "checked at start"
    return certificate, key


def _name(settings: GatewaySettings) -> str:
    """A name in the gateway's certificate, learnt by shaking hands with ourselves in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = _server_context(settings).wrap_bio(to_server, to_client, server_side=True)
    context = loopback_tls(settings)
    assert context is not None, "there is a certificate"
    client = context.wrap_bio(to_client, to_server)
    try:
        for side in (client, server, client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "the handshake failed")
        raise InvalidOption(
            "NUCLEI_TLS_CLIENT_CA does not accept the certificate with which `nuclei serve` checks "
            f"its gateway ({reason}): set NUCLEI_TLS_OWN_CERTIFICATE and NUCLEI_TLS_OWN_KEY to a "
            "certificate of a client"
        ) from None
    names = (client.getpeercert() or {}).get("subjectAltName", ())
    if not names:
        raise InvalidOption(
            "NUCLEI_TLS_CERTIFICATE has no names (subjectAltName), so gRPC callers refuse it: make "
            "one with names"
        )
    return str(names[0][1]).replace("*", "any")
