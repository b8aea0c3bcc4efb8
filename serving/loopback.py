"""How this machine's own processes call its gateway."""

import ssl
import urllib.error
import urllib.request

from nuclei.client import Client
from serving.gateway.settings import GatewaySettings
from serving.settings import ServeSettings


class Loopback:
    """The gateway of this machine, whatever it asks of its callers."""

    def __init__(self, settings: ServeSettings, gateway: GatewaySettings) -> None:
        scheme = "http" if gateway.tls_certificate is None else "https"
        self.http_url = f"{scheme}://{settings.reachable_host}:{settings.http_port}"
        self.grpc_address = f"{settings.reachable_host}:{settings.grpc_port}"
        # Our own servers are never reached through a proxy.
        self._http = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=_unverified())
        )

    def answers(self, path: str, timeout_s: float) -> bool:
        """Whether an HTTP GET is answered well in time."""
        try:
            with self._http.open(self.http_url + path, timeout=timeout_s) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def client(self) -> Client:
        """A client of its gRPC API."""
        return Client(self.grpc_address)


def _unverified() -> ssl.SSLContext:
    # The address is ours, and nothing secret is sent.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
