"""Where the gateway may listen, given what it asks of its callers."""

import ipaddress
import logging
from collections.abc import Iterable

import psutil
from pydantic import SecretStr

from nuclei.errors import InvalidOption
from serving.gateway.certificates import check_certificates
from serving.gateway.settings import GatewaySettings

logger = logging.getLogger(__name__)

_MIN_TOKEN_LENGTH = 16


def check_exposure(settings: GatewaySettings, addresses: Iterable[str]) -> None:
    """Check that the gateway may listen on these addresses with these settings.

    Args:
        settings: of the gateway.
        addresses: IP addresses or host names, HTTP and gRPC.

    Raises:
        InvalidOption: a certificate, key or token cannot be used, or the service would be open to
            everybody who reaches it.
    """
    check_certificates(settings)
    _check_tokens(settings)
    public = sorted({address for address in addresses if not _is_loopback(address)})
    if not public or settings.insecure:
        return
    if settings.token is None and settings.tls_client_ca is None:
        raise InvalidOption(
            f"listening on {', '.join(public)} would let everybody in: set NUCLEI_TOKEN (callers "
            "send it) or NUCLEI_TLS_CLIENT_CA (callers show a certificate), keep NUCLEI_HOST on "
            "127.0.0.1, or set NUCLEI_INSECURE=true if something in front checks the callers"
        )
    if settings.tls_certificate is None:
        logger.warning(
            "the token and the frames can be read on their way to %s: set NUCLEI_TLS_CERTIFICATE "
            "and NUCLEI_TLS_KEY unless TLS ends in front of this process",
            ", ".join(public),
        )


def listening_addresses() -> set[str]:
    """IP addresses on which this process listens, TCP."""
    return {
        connection.laddr.ip
        for connection in psutil.Process().net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def _check_tokens(settings: GatewaySettings) -> None:
    administrators = settings.administrator_token
    _check_token("NUCLEI_TOKEN", settings.token)
    _check_token("NUCLEI_ADMINISTRATOR_TOKEN", administrators)
    if administrators is not None and administrators == settings.token:
        raise InvalidOption(
            "NUCLEI_ADMINISTRATOR_TOKEN is NUCLEI_TOKEN, so that whoever may send frames could "
            "change what is served; take another: `openssl rand -hex 32`"
        )


def _check_token(variable: str, secret: SecretStr | None) -> None:
    if secret is None:
        return
    token = secret.get_secret_value()
    if len(token) < _MIN_TOKEN_LENGTH or not all("!" <= character <= "~" for character in token):
        raise InvalidOption(
            f"{variable} has {len(token)} characters; expected at least {_MIN_TOKEN_LENGTH}, "
            "printable ASCII without spaces: take `openssl rand -hex 32`"
        )


def _is_loopback(address: str) -> bool:
    if address == "localhost":
        return True
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback
