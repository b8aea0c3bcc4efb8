"""An API server for each test, and the objects of an overlay, built once."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.cluster.api import Cluster
from serving.cluster.objects import Object
from serving.cluster.rendering import OVERLAYS, render
from serving.cluster.values import Values
from tests.serving.cluster.api_server import ApiServer, running, write_kubeconfig


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """An empty API server that the kubeconfig names."""
    with running() as server:
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", str(server.url))
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield server


@pytest.fixture
def cluster(server: ApiServer) -> Cluster:
    return Cluster()


@pytest.fixture(scope="session")
def built() -> Callable[[str], list[Object]]:
    """The objects of an overlay of ours, as they are without values."""
    found: dict[str, list[Object]] = {}

    def build(overlay: str) -> list[Object]:
        if overlay not in found:
            found[overlay] = render(OVERLAYS / overlay, Values())
        return copy.deepcopy(found[overlay])

    return build


@pytest.fixture
def items(built: Callable[[str], list[Object]], server: ApiServer) -> list[Object]:
    """The objects of the overlay `cpu`; the server has the secret that they need."""
    server.put_secret("nuclei-token", "token")
    return built("cpu")
