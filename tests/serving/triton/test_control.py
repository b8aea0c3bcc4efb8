"""Triton's control API, on a real Triton."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nuclei.errors import EngineFailed, EngineUnavailable, ModelNotFound
from nuclei.process.ports import free_ports
from serving.triton.control import TritonControl
from serving.triton.server import TritonServer
from tests.serving.onnx_models import scaled, tensors, triton_model

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("control") / "models"
    triton_model(folder, "one", scaled(), tensors())
    return folder


@pytest.fixture(scope="module")
def control(models: Path) -> Iterator[TritonControl]:
    (metrics_port,) = free_ports(1)
    with TritonServer(models, models.parent / "state", metrics_port=metrics_port) as server:
        yield server.control


def test_models_are_loaded_and_unloaded(control: TritonControl, models: Path) -> None:
    triton_model(models, "two", scaled(), tensors(), version=7)
    assert not control.is_ready("two")
    control.load("two")
    assert control.ready() == {("one", 1), ("two", 7)}
    assert control.config("two").name == "two"
    control.unload("two")
    control.unload("two")
    control.unload("never_there")
    assert not control.is_ready("two")
    with pytest.raises(ModelNotFound):
        control.config("two")


def test_what_cannot_be_loaded_is_named_with_the_reason(
    control: TritonControl, models: Path
) -> None:
    triton_model(models, "broken", b"no model", tensors())
    with pytest.raises(EngineFailed, match=r"cannot load 'broken'.*model\.onnx"):
        control.load("broken")
    with pytest.raises(EngineFailed, match="cannot load 'missing'"):
        control.load("missing")
    assert control.is_ready("one")
    assert not control.is_ready("broken")


def test_a_model_that_was_asked_for_nothing_is_idle(control: TritonControl) -> None:
    assert control.idle_s("one") > 1e9


def test_a_server_that_is_not_there_is_said_to_be_unavailable() -> None:
    (port,) = free_ports(1)
    gone = TritonControl(f"127.0.0.1:{port}")
    assert not gone.is_live()
    with pytest.raises(EngineUnavailable):
        gone.index()
