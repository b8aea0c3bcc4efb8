"""The HTTP routes explored from their OpenAPI document, and bodies that it does not describe."""

import gzip
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nuclei import errors
from serving.gateway.http_options import PARAMETERS
from serving.gateway.openapi import openapi_document
from tests.fuzz.frames import encoded_frames

schemathesis.openapi.media_type("application/octet-stream", encoded_frames())


schema = schemathesis.openapi.from_dict(openapi_document("0"))
cases = st.sampled_from(list(schemathesis.GenerationMode)).flatmap(
    lambda mode: st.one_of(
        schema["/v1/segment"]["POST"].as_strategy(generation_mode=mode),
        schema["/v1/frame"]["POST"].as_strategy(generation_mode=mode),
        schema["/v1/models"]["GET"].as_strategy(generation_mode=mode),
    )
)
over_a_gateway = settings(
    suppress_health_check=[
        HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much
    ],
)  # fmt: skip


@over_a_gateway
@given(case=cases)
def test_documented_routes(gateway: Any, case: schemathesis.Case) -> None:
    # Bytes that the document allows need not be an image.
    excluded = [schemathesis.checks.positive_data_acceptance]
    answer = case.call(base_url=gateway.url)
    if answer.status_code == 504 and float(case.query["timeout_s"]) < 10:
        # It had the time that it was given.
        excluded.append(schemathesis.checks.not_a_server_error)
    case.validate_response(answer, excluded_checks=excluded)


@pytest.fixture(scope="module")
def http(gateway: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=60) as connected:
        yield connected


def check(response: httpx.Response) -> None:
    """A result, or a problem that says what the caller should change."""
    if response.status_code == 200:
        return
    assert 400 <= response.status_code < 500, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert issubclass(getattr(errors, response.json()["title"]), errors.NucleiError)


NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)


@over_a_gateway
@given(
    body=encoded_frames(),
    query=st.dictionaries(
        st.sampled_from(PARAMETERS) | st.text(max_size=8),
        st.sampled_from(["unet", "true", "geojson", "labels.png", "0", "1,2", "max"])
        | st.text(max_size=20),
        max_size=4,
    ),
    content_type=st.sampled_from(
        ["", "image/png", "multipart/form-data", "multipart/form-data; boundary=x", "text/html"]
    )
    | NAMES,
)
def test_segment(http: httpx.Client, body: bytes, query: Any, content_type: str) -> None:
    headers = {"content-type": content_type} if content_type else {}
    check(http.post("/v1/segment", content=body, params=query, headers=headers))


@over_a_gateway
@given(
    body=encoded_frames(),
    fields=st.dictionaries(
        st.sampled_from(PARAMETERS) | st.text(max_size=8),
        st.sampled_from(["unet", "true", "geojson", "0", "1,2", "max"]) | st.text(max_size=20),
        max_size=4,
    ),
    accept=st.sampled_from(["*/*", "text/csv;q=0.5", "image/*, */*;q=0", ";;,=;q="]) | NAMES,
    encoding=st.sampled_from(["gzip", "identity", "br"]) | NAMES,
    compressed=st.booleans(),
)
def test_forms_and_headers(
    http: httpx.Client, body: bytes, fields: Any, accept: str, encoding: str, compressed: bool
) -> None:
    headers = {"accept": accept, "content-encoding": encoding}
    if compressed:
        check(http.post("/v1/segment", content=gzip.compress(body), headers=headers))
    else:
        check(http.post("/v1/segment", data=fields, files={"file": body}, headers=headers))


@over_a_gateway
@given(
    method=st.sampled_from(["GET", "PUT", "DELETE", "PATCH", "POST", "OPTIONS", "TRACE", "X"]),
    path=st.sampled_from(["/v1/segment", "/v1/models", "/v1", "/segment", "/predict"])
    | NAMES.map(lambda name: "/" + quote(name, safe="")),
)
def test_any_method_on_any_path(http: httpx.Client, method: str, path: str) -> None:
    if path.split("/")[1] in ("livez", "readyz", "healthz", "metrics", "openapi.json"):
        return
    response = http.request(method, path)
    if (method, path) != ("GET", "/v1/models"):
        assert response.status_code < 500, response.text
        assert "Traceback" not in response.text


@over_a_gateway
@given(
    start=st.sampled_from([b"", b"POST /v1/segment HTTP/1.1\r\n", b"GET /v1/models HTTP/1.1\r\n"]),
    data=st.binary(max_size=200),
)
def test_bytes_that_may_be_no_request(gateway: Any, start: bytes, data: bytes) -> None:
    address = httpx.URL(gateway.url)
    with socket.create_connection((address.host, address.port), timeout=10) as connection:
        connection.sendall(start + data)
        connection.shutdown(socket.SHUT_WR)
        answered = b""
        while received := connection.recv(2**16):
            answered += received
    # Empty when the caller hung up in the middle of its headers.
    assert not answered or answered.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200"))
    assert httpx.get(f"{gateway.url}/livez").status_code == 200
