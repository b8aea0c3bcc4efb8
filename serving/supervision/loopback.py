"""How this machine's own processes call its gateway."""

import urllib.error
import urllib.request

from nuclei.client import Client
from serving.gateway.certificates import check_loopback, loopback_channel, loopback_tls
from serving.gateway.settings import GatewaySettings


class Loopback:
    """The gateway of this machine, with the token and certificates that it requires."""

    def __init__(self, gateway: GatewaySettings) -> None:
        """Raises InvalidOption when the gateway's certificates cannot be used."""
        check_loopback(gateway)
        scheme = "http" if gateway.tls_certificate is None else "https"
        self.http_url = f"{scheme}://{gateway.reachable_host}:{gateway.http_port}"
        self.grpc_address = f"{gateway.reachable_host}:{gateway.grpc_port}"
        # Without the proxy of the environment: it is on this machine.
        self._http = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=loopback_tls(gateway)),
        )
        self._gateway = gateway

    def answers(self, path: str, timeout_s: float) -> bool | None:
        """Whether an HTTP GET is answered with 200 within the time; None for no answer."""
        try:
            with self._http.open(self.http_url + path, timeout=timeout_s) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            error.close()
            return False
        except OSError:
            return None

    def client(self) -> Client:
        """A client of its gRPC API."""
        token = self._gateway.token
        return Client(
            token="" if token is None else token.get_secret_value(),
            channel=loopback_channel(self._gateway, self.grpc_address),
        )
