"""Who may call the gateway, over both protocols, and where it refuses to listen."""

import datetime
import ipaddress
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from typer.testing import CliRunner

from nuclei.cli.app import app
from nuclei.client import AsyncClient, Client
from nuclei.errors import EngineUnavailable, InvalidOption, Unauthenticated
from nuclei.process.ports import free_ports
from serving.gateway.certificates import check_loopback, loopback_channel, loopback_tls
from serving.gateway.exposure import check_exposure
from serving.gateway.settings import GatewaySettings
from serving.supervision.gateway_process import COMMAND
from serving.triton.server import TritonServer

ROOT = Path(__file__).parents[3]
SERVICE = "nuclei.v1.Segmentation"
TOKEN = "a-token-of-thirty-two-characters"
HOST = "scope.example.org"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
CLOSED_PATHS = (
    "/v1/models",
    "/v1/rollout",
    "/metrics",
    "/openapi.json",
    "/v1/frame",
    "/v1/live",
    "/docs.json",
    "/nothing",
)

RunGateway = Callable[..., Any]


@dataclass(frozen=True)
class Certificates:
    """PEM files; `other_ca` has signed `stranger`, `ca` the rest."""

    folder: Path

    def __getattr__(self, name: str) -> str:
        return str(self.folder / name.replace("_key", ".key"))


@dataclass(frozen=True)
class Authority:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def certificate(name: str, issuer: Authority | None) -> Authority:
    """A certificate for a name, signed by the issuer; without an issuer, an authority's own."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(HOST), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(issuer.key if issuer else key, hashes.SHA256())
    )
    return Authority(key, signed)


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    ca, other_ca = certificate("ca", None), certificate("other", None)
    made = {
        "ca": ca,
        "other_ca": other_ca,
        "server": certificate("server", ca),
        "client": certificate("client", ca),
        "stranger": certificate("stranger", other_ca),
    }
    for name, owner in made.items():
        (folder / name).write_bytes(owner.certificate.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            owner.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
    return Certificates(folder)


def tls(pem: Certificates, client: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=pem.ca)
    if client is not None:
        context.load_cert_chain(pem.folder / client, pem.folder / f"{client}.key")
    return context


def channel(pem: Certificates, address: str, client: str | None = None) -> grpc.Channel:
    chain: tuple[bytes | None, ...] = (None, None)
    if client is not None:
        chain = tuple((pem.folder / f"{client}{end}").read_bytes() for end in (".key", ""))
    credentials = grpc.ssl_channel_credentials(Path(pem.ca).read_bytes(), *chain)
    return grpc.secure_channel(address, credentials)


def wait_ready(https: httpx.Client, process: Any) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if https.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert process.running, process.last_lines(20)
        assert time.monotonic() < deadline, process.last_lines(20)
        time.sleep(0.1)


@dataclass(frozen=True)
class Secured:
    """A gateway with TLS, and a client with the certificate that it asks for, but no token."""

    https: httpx.Client
    http_port: int
    grpc_address: str
    log: Callable[[], str]


def secured(gateway: Any, context: ssl.SSLContext) -> Secured:
    http_port = int(gateway.url.rpartition(":")[2])
    https = httpx.Client(base_url=f"https://127.0.0.1:{http_port}", verify=context, timeout=30)
    wait_ready(https, gateway.process)
    return Secured(https, http_port, gateway.grpc_address, lambda: gateway.process.last_lines(200))


@pytest.fixture(scope="module")
def public(
    triton: TritonServer,
    pem: Certificates,
    run_gateway: RunGateway,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Secured]:
    """Listens on every address, with TLS and a token."""
    settings = {
        "NUCLEI_HOST": "0.0.0.0",
        "NUCLEI_TOKEN": TOKEN,
        "NUCLEI_TLS_CERTIFICATE": pem.server,
        "NUCLEI_TLS_KEY": pem.server_key,
        "NUCLEI_DRAIN_S": "1",
    }
    with run_gateway(tmp_path_factory.mktemp("public"), triton.address, **settings) as gateway:
        caller = secured(gateway, tls(pem))
        yield caller
        stopping = time.monotonic()
    # Its caller is still connected, but idle; the gateway does not wait for it.
    assert time.monotonic() - stopping < 10
    caller.https.close()


@pytest.fixture(scope="module")
def mutual(
    triton: TritonServer,
    pem: Certificates,
    run_gateway: RunGateway,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Secured]:
    """Listens on every address, and asks for certificates instead of a token."""
    with run_gateway(
        tmp_path_factory.mktemp("mutual"),
        triton.address,
        NUCLEI_HOST="0.0.0.0",
        NUCLEI_DRAIN_S="1",
        **mtls(pem),
    ) as gateway:
        caller = secured(gateway, tls(pem, "client"))
        yield caller
    caller.https.close()


def mtls(pem: Certificates) -> dict[str, str]:
    return {
        "NUCLEI_TLS_CERTIFICATE": pem.server,
        "NUCLEI_TLS_KEY": pem.server_key,
        "NUCLEI_TLS_CLIENT_CA": pem.ca,
    }


def test_token_opens_both_protocols(public: Secured, pem: Certificates, fluorescence: Path) -> None:
    with Client(token=TOKEN, channel=channel(pem, public.grpc_address)) as client:
        count = len(client.segment(fluorescence).nuclei)
        assert client.server_info().default_model == "unet"
    body = fluorescence.read_bytes()
    answer = public.https.post("/v1/segment", content=body, headers=BEARER)
    assert (answer.status_code, answer.headers["X-Nuclei-Count"]) == (200, str(count))
    assert public.https.get("/metrics", headers=BEARER).status_code == 200


def test_clients_bring_their_own_token_and_tls_files(
    public: Secured, pem: Certificates, fluorescence: Path
) -> None:
    with Client(public.grpc_address, token=TOKEN, tls_ca=Path(pem.ca)) as client:
        (outcome,) = client.stream([fluorescence])
        assert outcome.segmentation is not None
    with (
        Client(public.grpc_address, token="wrong", tls_ca=Path(pem.ca)) as stranger,
        pytest.raises(Unauthenticated),
    ):
        list(stranger.stream([fluorescence]))


async def test_clients_show_their_certificate(
    mutual: Secured, pem: Certificates, fluorescence: Path
) -> None:
    files = {"tls_certificate": Path(pem.client), "tls_key": Path(pem.client_key)}
    async with AsyncClient(mutual.grpc_address, tls_ca=Path(pem.ca), **files) as client:
        assert [o.sequence async for o in client.stream([fluorescence])] == [0]


@pytest.mark.parametrize("token", ["", "wrong-token", TOKEN[:-1], TOKEN + "x"])
def test_without_the_token_grpc_answers_nothing(
    public: Secured, pem: Certificates, fluorescence: Path, token: str
) -> None:
    with Client(token=token, channel=channel(pem, public.grpc_address)) as client:
        with pytest.raises(Unauthenticated, match="authorization: Bearer"):
            client.segment(fluorescence)
        with pytest.raises(Unauthenticated) as refused:
            client.server_info()
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize("method", [f"/{SERVICE}/SegmentStream", f"/{SERVICE}/Nothing", "/a/b"])
def test_without_the_token_no_method_is_known(
    public: Secured, pem: Certificates, method: str
) -> None:
    with channel(pem, public.grpc_address) as opened:
        call = opened.stream_stream(method)
        with pytest.raises(grpc.RpcError) as refused:
            list(call(iter([b""]), timeout=10))
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_reflection_needs_the_token_and_health_does_not(public: Secured, pem: Certificates) -> None:
    with channel(pem, public.grpc_address) as opened:
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        reflect = reflection_pb2_grpc.ServerReflectionStub(opened).ServerReflectionInfo
        with pytest.raises(grpc.RpcError) as refused:
            next(reflect(iter([asked])))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        listed = reflect(iter([asked]), metadata=(("authorization", f"Bearer {TOKEN}"),))
        assert SERVICE in [service.name for service in next(listed).list_services_response.service]
        health = health_pb2_grpc.HealthStub(opened).Check  # type: ignore[attr-defined]
        assert health(health_pb2.HealthCheckRequest(service=SERVICE)).status


@pytest.mark.parametrize("path", CLOSED_PATHS)
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "é"}])
def test_without_the_token_http_reveals_nothing(
    public: Secured, path: str, headers: dict[str, str]
) -> None:
    sent = {name: value.encode() for name, value in headers.items()}
    answer = public.https.get(path, headers=sent)
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["title"] == "Unauthenticated"


def test_pages_are_open_for_they_hold_nothing(public: Secured) -> None:
    assert public.https.get("/").headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert public.https.get("/web/style.css").status_code == 200


def test_health_is_open_and_refusals_are_counted(public: Secured) -> None:
    assert public.https.post("/v1/segment", content=b"x").status_code == 401
    for path in ("/livez", "/readyz"):
        assert public.https.get(path).status_code == 200
    counted = public.https.get("/metrics", headers=BEARER).text
    assert 'nuclei_rejected_total{protocol="http",reason="unauthenticated"}' in counted


def test_the_end_of_the_certificate_is_shown(public: Secured, pem: Certificates) -> None:
    server = x509.load_pem_x509_certificate(Path(pem.server).read_bytes())
    lines = public.https.get("/metrics", headers=BEARER).text.splitlines()
    (shown,) = (line for line in lines if line.startswith("nuclei_certificate_not_after"))
    assert float(shown.split()[-1]) == server.not_valid_after_utc.timestamp()


def test_the_probe_shows_its_token_and_certificate(public: Secured, pem: Certificates) -> None:
    secured = ["probe", "--once", "--address", public.grpc_address, "--tls-ca", pem.ca]
    answered = CliRunner().invoke(app, [*secured, "--token", TOKEN])
    assert answered.exit_code == 0, answered.output
    refused = CliRunner().invoke(app, [*secured, "--token", "wrong"])
    assert isinstance(refused.exception, Unauthenticated)


def test_frame_is_refused_before_it_is_sent(public: Secured, pem: Certificates) -> None:
    with (
        socket.create_connection(("127.0.0.1", public.http_port), 10) as plain,
        tls(pem).wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(
            b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n"
        )
        assert connection.recv(64).startswith(b"HTTP/1.1 401")


def test_plain_text_and_unknown_authorities_are_refused(public: Secured, pem: Certificates) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{public.http_port}/livez")
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"https://127.0.0.1:{public.http_port}/livez")
    with Client(public.grpc_address, token=TOKEN) as client, pytest.raises(EngineUnavailable):
        client.server_info(timeout_s=3)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_tls_is_refused(public: Secured, pem: Certificates) -> None:
    context = tls(pem)
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", public.http_port), 10) as plain,
        pytest.raises((ssl.SSLError, OSError)),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_certificate_of_the_authority_opens_both_protocols(
    mutual: Secured, pem: Certificates, fluorescence: Path
) -> None:
    with Client(channel=channel(pem, mutual.grpc_address, "client")) as client:
        assert len(client.segment(fluorescence).nuclei) > 10
    assert mutual.https.get("/v1/models").status_code == 200


@pytest.mark.parametrize("client", [None, "stranger"])
def test_other_certificates_are_refused(
    mutual: Secured, pem: Certificates, client: str | None
) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(str(mutual.https.base_url.join("/livez")), verify=tls(pem, client))
    with (
        Client(channel=channel(pem, mutual.grpc_address, client)) as connected,
        pytest.raises(EngineUnavailable),
    ):
        connected.server_info(timeout_s=3)


def test_this_machine_can_check_its_gateway(mutual: Secured, pem: Certificates) -> None:
    """Checks it as `nuclei serve` does: with the gateway's settings and nothing else."""
    settings = GatewaySettings(
        tls_certificate=Path(pem.server), tls_key=Path(pem.server_key), tls_client_ca=Path(pem.ca)
    )
    context = loopback_tls(settings)
    assert context is not None
    url = str(mutual.https.base_url.join("/readyz"))
    assert httpx.get(url, verify=context).status_code == 200
    with Client(channel=loopback_channel(settings, mutual.grpc_address)) as client:
        assert client.server_info().default_model == "unet"


def test_nothing_secret_is_logged(public: Secured, mutual: Secured) -> None:
    assert TOKEN not in public.log()
    assert "PRIVATE KEY" not in public.log() + mutual.log()


def bentoml_serve(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "BENTOML_HOME": str(folder),
        "BENTOML_DO_NOT_TRACK": "True",
        **settings,
    }
    command = [
        *(sys.executable, "-m", "bentoml", "serve", "serving.gateway.service:NucleiGateway"),
        *("--working-dir", str(ROOT), *arguments),
    ]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "settings"),
    [(("--host", "0.0.0.0"), {}), ((), {"NUCLEI_HOST": "0.0.0.0"}), ((), {"NUCLEI_HOST": "::"})],
)
def test_public_address_without_authentication_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], settings: dict[str, str]
) -> None:
    ended = bentoml_serve(tmp_path, *arguments, **settings)
    assert ended.returncode == InvalidOption.exit_code
    assert "NUCLEI_TOKEN" in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout


@pytest.mark.slow
def test_worker_of_bentoml_that_finds_itself_public_ends_the_service(tmp_path: Path) -> None:
    """The last line of defence: BentoML's own configuration can change the address as well."""
    configuration = tmp_path / "bentoml.yaml"
    configuration.write_text("services:\n  NucleiGateway:\n    http:\n      host: 0.0.0.0\n")
    http_port, grpc_port = map(str, free_ports(2))
    ended = bentoml_serve(
        tmp_path,
        BENTOML_CONFIG=str(configuration),
        NUCLEI_HTTP_PORT=http_port,
        NUCLEI_GRPC_PORT=grpc_port,
    )
    assert "listening on 0.0.0.0 would let everybody in" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


@pytest.mark.slow
def test_a_gateway_of_its_own_refuses_a_public_address_without_authentication(
    tmp_path: Path,
) -> None:
    ended = subprocess.run(
        COMMAND,
        env={**os.environ, "NUCLEI_HOST": "0.0.0.0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == InvalidOption.exit_code
    assert "NUCLEI_TOKEN" in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.7", "::ffff:192.0.2.7", "scope"])
def test_public_addresses_are_known(address: str) -> None:
    with pytest.raises(InvalidOption, match="let everybody in"):
        check_exposure(GatewaySettings(), {"127.0.0.1", address})
    check_exposure(GatewaySettings(insecure=True), {address})
    check_exposure(GatewaySettings(token=TOKEN), {address})


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_loopback_needs_no_authentication(address: str) -> None:
    check_exposure(GatewaySettings(), {address})


def test_token_in_plain_text_gives_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    check_exposure(GatewaySettings(token=TOKEN), {"0.0.0.0"})
    assert "NUCLEI_TLS_CERTIFICATE" in caplog.text
    assert TOKEN not in caplog.text


@dataclass(frozen=True)
class BadSettings:
    name: str
    settings: Callable[[Certificates], dict[str, Any]]
    says: str


BAD_SETTINGS = [
    BadSettings(
        "another's key",
        lambda pem: {"tls_certificate": pem.server, "tls_key": pem.client_key},
        "NUCLEI_TLS_CERTIFICATE and NUCLEI_TLS_KEY cannot be used: the key is another's",
    ),
    BadSettings(
        "no key",
        lambda pem: {"tls_certificate": pem.server},
        "NUCLEI_TLS_CERTIFICATE and NUCLEI_TLS_KEY go together",
    ),
    BadSettings(
        "missing file",
        lambda pem: {"tls_certificate": pem.nothing, "tls_key": pem.server_key},
        "NUCLEI_TLS_CERTIFICATE is .* cannot be read",
    ),
    BadSettings(
        "no PEM",
        lambda pem: {"tls_certificate": __file__, "tls_key": pem.server_key},
        "NUCLEI_TLS_CERTIFICATE and NUCLEI_TLS_KEY cannot be used",
    ),
    BadSettings(
        "authority without TLS",
        lambda pem: {"tls_client_ca": pem.ca},
        "NUCLEI_TLS_CLIENT_CA needs TLS",
    ),
    BadSettings(
        "empty authority",
        lambda pem: {
            "tls_certificate": pem.server,
            "tls_key": pem.server_key,
            "tls_client_ca": "/dev/null",
        },
        "NUCLEI_TLS_CLIENT_CA cannot be used",
    ),
    BadSettings("short token", lambda pem: {"token": "short"}, "NUCLEI_TOKEN has 5 characters"),
    BadSettings("token of words", lambda pem: {"token": "a token " * 9}, "without spaces"),
    BadSettings(
        "one token for both",
        lambda pem: {"token": TOKEN, "administrator_token": TOKEN},
        "NUCLEI_ADMINISTRATOR_TOKEN is NUCLEI_TOKEN",
    ),
]


@pytest.mark.parametrize("bad", BAD_SETTINGS, ids=lambda bad: bad.name)
def test_unusable_settings_are_named(pem: Certificates, bad: BadSettings) -> None:
    with pytest.raises(InvalidOption, match=bad.says):
        check_exposure(GatewaySettings(**bad.settings(pem)), {"127.0.0.1"})


def test_own_certificate_that_the_gateway_refuses_is_reported(pem: Certificates) -> None:
    settings = GatewaySettings(
        tls_certificate=Path(pem.server), tls_key=Path(pem.server_key),
        tls_client_ca=Path(pem.other_ca),
    )  # fmt: skip
    with pytest.raises(InvalidOption, match="NUCLEI_TLS_OWN_CERTIFICATE"):
        check_loopback(settings)
    own = {"tls_own_certificate": Path(pem.stranger), "tls_own_key": Path(pem.stranger_key)}
    check_loopback(settings.model_copy(update=own))
