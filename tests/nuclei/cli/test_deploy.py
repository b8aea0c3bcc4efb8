"""`nuclei deploy` as a user runs it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from nuclei.cli.app import app
from nuclei.cli.deploy import EXIT_WRONG
from nuclei.errors import DeadlineExceeded, InvalidOption
from serving.promotion.changes import promote
from tests.serving.cluster.api_server import ApiServer, running, write_kubeconfig
from tests.serving.cluster.pods import pod, report
from tests.serving.promotion.registries import MODEL, Filled


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with running() as server:
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", str(server.url))
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield server


@pytest.fixture
def deploy(filled: Filled) -> Callable[..., Result]:
    def run(*arguments: object) -> Result:
        environment = {"COLUMNS": "200", "MLFLOW_TRACKING_URI": filled.registry.tracking_uri}
        return CliRunner().invoke(app, ["deploy", *map(str, arguments)], env=environment)

    return run


def test_renders_applies_and_compares(
    server: ApiServer,
    deploy: Callable[..., Result],
    tmp_path: Path,
) -> None:
    server.put_secret("nuclei-token", "token")
    values = tmp_path / "site.yaml"
    values.write_text("replicas: {triton: 3}")
    rendered = deploy("render", "cpu", "--values", values)
    kinds = [item["kind"] for item in yaml.safe_load_all(rendered.output)]
    assert kinds[0] == "Namespace"
    applied = deploy("apply", "cpu", "--values", values)
    assert applied.exit_code == 0, applied.output
    assert "Deployment triton created\n" in applied.output
    assert server.find("apps/v1/deployments", "triton")["spec"]["replicas"] == 3
    compared = deploy("diff", "cpu")
    assert "-  replicas: 3\n" in compared.output
    assert f"1 of {len(kinds)} objects would change" in compared.output


def test_status_fails_where_something_is_wrong(
    server: ApiServer,
    deploy: Callable[..., Result],
    filled: Filled,
) -> None:
    result = deploy("status")
    assert result.exit_code == EXIT_WRONG
    assert "nuclei deploy apply" in result.output
    server.add(
        "apps/v1/deployments",
        {
            "metadata": {"name": "triton", "namespace": "nuclei"},
            "spec": {"replicas": 1},
            "status": {"readyReplicas": 1},
        },
    )
    server.add("v1/pods", pod("triton-a"))
    report(filled, "triton-a", 1)
    result = deploy("status")
    assert result.exit_code == 0, result.output
    assert "nothing is wrong" in result.output
    assert f"{MODEL} 1" in result.output


def test_promotes_in_every_pod_or_not_at_all(
    server: ApiServer,
    deploy: Callable[..., Result],
    filled: Filled,
) -> None:
    promote(filled.registry, MODEL, 1)
    server.add("v1/pods", pod("triton-a"))
    result = deploy("promote", "unet", 2, "--wait", "--timeout", 1)
    assert isinstance(result.exception, DeadlineExceeded)
    assert "the champion is 1" in str(result.exception)
    assert filled.aliases() == {"champion": 1}
    report(filled, "triton-a", 2)
    result = deploy("promote", "unet", 2, "--wait")
    assert result.output.endswith("unet 2 answers in every pod\n")
    assert filled.aliases() == {"champion": 2}


def test_logs_are_told_by_container(
    server: ApiServer,
    deploy: Callable[..., Result],
) -> None:
    for name, component in {"triton-a": "triton", "gateway-a": "gateway"}.items():
        server.add("v1/pods", pod(name, component))
        server.logs[name, component] = b"ready\ndone\n"
    assert deploy("logs", "triton").output == "triton-a/triton: ready\ntriton-a/triton: done\n"
    assert "gateway-a/gateway: done\n" in deploy("logs").output
    assert isinstance(deploy("logs", "mlflow").exception, InvalidOption)


def test_a_bundle_does_not_overwrite(
    server: ApiServer,
    deploy: Callable[..., Result],
    tmp_path: Path,
) -> None:
    path = tmp_path / "support.tar.gz"
    assert deploy("bundle", path).output == f"wrote {path}\n"
    assert isinstance(deploy("bundle", path).exception, InvalidOption)
