"""The registry over HTTP where it is missing, silent, or not to be changed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from nuclei.process.ports import LOOPBACK, free_ports
from serving.gateway import registry as registry_module
from serving.gateway.http_routes import http_app
from serving.gateway.registry import RegistryProcess
from serving.gateway.security import Token
from serving.gateway.settings import GatewaySettings
from tests.serving.promotion.registries import MODEL, Filled

CHANGE = {"version": 2, "champion": None}


@asynccontextmanager
async def connected(**given: str) -> AsyncIterator[httpx.AsyncClient]:
    """A caller of a gateway that has not looked at Triton."""
    settings = GatewaySettings(**given)
    app = http_app(settings, Token(settings))
    app.state.registry = RegistryProcess(settings.registry)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client
    await app.state.registry.close()


async def test_without_a_registry_there_is_nothing() -> None:
    async with connected(administrator_token="x" * 32) as client:
        assert (await client.get("/v1/registry")).status_code == 404


async def test_without_an_administrator_it_is_only_read(filled: Filled) -> None:
    async with connected(registry=filled.registry.tracking_uri) as client:
        report = (await client.get("/v1/registry")).json()
        assert [model["name"] for model in report["models"]] == [MODEL]
        assert report["writable"] is False
        assert (await client.post(f"/v1/registry/{MODEL}/promote", json=CHANGE)).status_code == 404
        # These gates were recorded without a run.
        gates = await client.get(f"/v1/registry/{MODEL}/2/gates")
        assert (gates.status_code, gates.json()["title"]) == (404, "ModelNotFound")


async def test_a_registry_that_is_gone_is_named() -> None:
    (port,) = free_ports(1)
    async with connected(registry=f"http://{LOOPBACK}:{port}") as client:
        answer = await client.get("/v1/registry")
        assert (answer.status_code, answer.json()["title"]) == (503, "RegistryUnavailable")


async def test_one_that_is_silent_is_given_up(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(registry=filled.registry.tracking_uri) as client:
        with monkeypatch.context() as patched:
            patched.setattr(registry_module, "READ_S", 0.05)
            answers = await asyncio.gather(*(client.get("/v1/registry") for _ in range(3)))
        assert {answer.status_code for answer in answers} == {503}
        assert "within 0.05 s" in answers[0].json()["detail"]
        assert (await client.get("/v1/registry")).status_code == 200
