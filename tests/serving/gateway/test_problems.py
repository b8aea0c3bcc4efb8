"""What HTTP says about failures, and that it reveals nothing about the service's internals."""

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from nuclei.errors import EngineUnavailable, InternalError, NucleiError, Overloaded
from nuclei.v1 import segmentation_pb2 as pb
from serving.gateway.http_routes import http_app
from serving.gateway.problems import problem
from serving.gateway.security import Token
from serving.gateway.settings import GatewaySettings

INSIDE = re.compile(
    r"Traceback|\.py\b|bentoml|starlette|uvicorn|triton|/(home|root|tmp|usr|work)/|https?://", re.I
)
PROBLEM = "application/problem+json"
TOKEN = "a-token-of-thirty-two-characters"


@pytest.fixture(scope="module")
def http(gateway: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=60) as connected:
        yield connected


def answers(gateway: Any, request: bytes) -> str:
    """What comes back for these bytes, with its headers."""
    host, _, port = gateway.url.rpartition("//")[2].partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        # It may already have answered and hung up.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        received = b""
        # A server may reset the connection when a request is too long.
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65536):
                received += chunk
    return received.decode()


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/index.html",
            "/docs.json",
            "/schema.json",
            "/healthz",
            "/static_content/index.css",
            "/assets",
            "/web",
            "/web/",
            "/web/index.html",
        ),
        *("/v1/segment/", "/v1", "/livez/", "/%2e%2e/etc/passwd", "/v1/models%00", "/é"),
        "/favicon.ico?url=http://example.org",
    ],
)
def test_only_our_routes_exist(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == PROBLEM
    assert answer.json()["title"] == "Not Found"
    assert not INSIDE.search(answer.text + str(answer.headers)), answer.text


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/segment", "POST"),
        ("PUT", "/v1/segment", "POST"),
        ("DELETE", "/v1/models", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
        ("POST", "/livez", "GET, HEAD"),
        ("BREW", "/readyz", "GET, HEAD"),
    ],
)
def test_other_methods_are_named(http: httpx.Client, method: str, path: str, allowed: str) -> None:
    answer = http.request(method, path)
    assert answer.status_code == 405
    assert sorted(answer.headers["allow"].split(", ")) == sorted(allowed.split(", "))
    assert answer.headers["content-type"] == PROBLEM
    assert not INSIDE.search(answer.text + str(answer.headers))


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    ],
    ids=["no HTTP", "version", "length", "chunk", "long path", "long header", "websocket"],
)
def test_malformed_requests_learn_nothing(gateway: Any, request_: bytes) -> None:
    said = answers(gateway, request_)
    assert not INSIDE.search(said), said
    assert httpx.get(f"{gateway.url}/livez").status_code == 200


def test_unexpected_failure_is_a_problem_without_details() -> None:
    """A route fails unexpectedly: the app has no data plane."""
    app = http_app(GatewaySettings(), Token(GatewaySettings()))
    client = TestClient(app, raise_server_exceptions=False)
    for answer in (client.get("/readyz"), client.get("/v1/models"), client.post("/v1/segment")):
        assert answer.status_code == 500
        assert answer.headers["content-type"] == PROBLEM
        assert answer.json()["title"] == InternalError.__name__
        assert not INSIDE.search(answer.text)
        assert "data_plane" not in answer.text


def test_token_comes_before_everything() -> None:
    settings = GatewaySettings(token=SecretStr(TOKEN))
    client = TestClient(http_app(settings, Token(settings)), raise_server_exceptions=False)
    assert client.get("/v1/models").status_code == 401
    # Open to everybody; it fails because there is no data plane.
    assert client.get("/livez").status_code == 500


def test_pages_of_other_origins_may_call_only_where_a_setting_says_so() -> None:
    origin = "https://viewer.example.org"
    preflight = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    closed, opened = (
        TestClient(http_app(settings, Token(settings)), raise_server_exceptions=False)
        for settings in (
            GatewaySettings(token=SecretStr(TOKEN)),
            GatewaySettings(token=SecretStr(TOKEN), cors_origins=f"http://other:8080,{origin}"),
        )
    )
    allowed = "access-control-allow-origin"
    page, bearer = "/openapi.json", {"Authorization": f"Bearer {TOKEN}"}
    assert allowed not in closed.get(page, headers={"Origin": origin, **bearer}).headers
    assert closed.options("/v1/segment", headers=preflight).status_code == 401
    assert opened.get(page, headers={"Origin": origin, **bearer}).headers[allowed] == origin
    stranger = {"Origin": "https://evil.org", **bearer}
    assert allowed not in opened.get(page, headers=stranger).headers
    assert opened.options("/v1/segment", headers=preflight).status_code == 200
    refused = opened.get("/v1/models", headers={"Origin": origin})
    assert (refused.status_code, refused.headers[allowed]) == (401, origin)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (Overloaded("busy", 2.3), "3"),
        (Overloaded("busy", 0.01), "1"),
        (EngineUnavailable("x"), "1"),
    ],
)
def test_retry_after_says_when_to_come_back(error: NucleiError, seconds: str) -> None:
    answer = problem(error)
    assert answer.headers["Retry-After"] == seconds
    assert answer.status_code in (429, 503)


@pytest.mark.parametrize("message", [b"\xff\xff\xff", b"\x0a\xff", bytes(1000)])
@pytest.mark.parametrize("method", ["Segment", "SegmentStream", "GetServerInfo"])
def test_malformed_messages_learn_nothing(gateway: Any, method: str, message: bytes) -> None:
    with grpc.insecure_channel(gateway.grpc_address) as channel:
        call = channel.stream_stream(f"/nuclei.v1.Segmentation/{method}")
        with pytest.raises(grpc.RpcError) as failed:
            list(call(iter([message]), timeout=20))
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT, failed.value.details()
    assert not INSIDE.search(failed.value.details())


def test_unknown_calls_learn_nothing(gateway: Any) -> None:
    with grpc.insecure_channel(gateway.grpc_address) as channel:
        call = channel.unary_unary(
            "/nuclei.v1.Segmentation/Nothing", pb.SegmentRequest.SerializeToString
        )
        with pytest.raises(grpc.RpcError) as failed:
            call(pb.SegmentRequest(), timeout=20)
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert not INSIDE.search(failed.value.details())


def test_caller_who_leaves_cancels_the_work(
    gateway: Any, http: httpx.Client, histology: Path
) -> None:
    """After the upload, when nothing more is read from the caller."""
    body = histology.read_bytes()
    started = time.monotonic()
    assert http.post("/v1/segment?tta=true", content=body).status_code == 200
    whole_s = time.monotonic() - started
    host, _, port = gateway.url.rpartition("//")[2].partition(":")
    head = (
        "POST /v1/segment?tta=true HTTP/1.1\r\nHost: x\r\nX-Request-ID: gone-1\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        time.sleep(min(0.3, whole_s / 4))
    deadline = time.monotonic() + 10
    while "request_id=gone-1" not in (log := gateway.process.last_lines(100)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (line,) = [line for line in log.splitlines() if "request_id=gone-1" in line]
    assert "code=CANCELLED" in line
    assert float(re.search(r"total_ms=([\d.]+)", line)[1]) < whole_s * 1000
    assert "Traceback" not in log
