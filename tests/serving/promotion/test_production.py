"""The registry of production: MLflow's server, PostgreSQL, an S3 store; clients know its URI only.

The same code as on SQLite, so here only what the servers could do otherwise: keep names unique,
rename atomically, fetch files through MLflow, and end.
"""

import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import uvicorn
from mlflow import MlflowClient

from nuclei.errors import Conflict, VersionRefused
from nuclei.process.ports import LOOPBACK, free_ports
from serving.promotion.artifacts import digest
from serving.promotion.changes import advance, promote, rollback
from serving.promotion.listener import listener
from serving.promotion.lock import HOLD_S
from serving.promotion.state import Phase
from serving.promotion.webhook import Webhooks
from serving.registry import Registry
from tests.conftest import ROOT
from tests.serving.promotion.registries import MODEL, Filled, fill
from tests.serving.promotion.servers import BUCKET, ProductionRegistry
from tests.serving.promotion.test_lock import HOLDING, PROMOTING, start

pytestmark = pytest.mark.slow
SECRET = "a secret of the test"


@pytest.fixture(scope="module")
def production(
    production_registry: ProductionRegistry, tmp_path_factory: pytest.TempPathFactory
) -> Filled:
    """The model with its four versions, registered through the server, without the store's key."""
    uri = production_registry.uri
    client = MlflowClient(uri, uri)
    fill(client, None, tmp_path_factory.mktemp("versions"))
    return Filled(Registry(uri), client)


def test_a_version_is_registered_fetched_promoted_and_rolled_back(
    production: Filled, production_registry: ProductionRegistry, tmp_path: Path
) -> None:
    registry = production.registry
    entry = production.state().find(2)
    folder = registry.download(entry.registered, tmp_path)
    assert (folder / "contract.json").read_text() == '{"family": "2"}'
    assert digest(folder) == entry.gates.digest
    # The files are in the store, and only its keys open it.
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{production_registry.s3}/{BUCKET}", timeout=10)
    assert promote(registry, MODEL, 1)
    assert promote(registry, MODEL, 2, [Phase(mode="shadow", fraction=0.1, frames=10)])
    assert production.aliases() == {"champion": 1, "challenger": 2}
    assert advance(registry, MODEL, production.state().rollout)
    assert rollback(registry, MODEL, "worse") == (2, 1)
    assert production.actions() == [
        ("promote", None, 1),
        ("challenge", 1, 2),
        ("promote", 1, 2),
        ("rollback", 2, 1),
    ]
    with psycopg.connect(production_registry.database) as database:
        rows = database.execute("SELECT alias, version FROM registered_model_aliases").fetchall()
    assert rows == [("champion", 1)]


def test_of_two_who_promote_at_once_one_wins(production: Filled) -> None:
    before = len(production.actions())
    uri = production.registry.tracking_uri
    processes = [start(PROMOTING, uri, "ada@lab", "1", "2"), start(PROMOTING, uri, "bo@lab", "3")]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    lines = [line for one in processes for line in one.communicate(timeout=100)[0].splitlines()]
    assert [process.returncode for process in processes] == [0, 0]
    actions = production.actions()[before:]
    assert len(actions) == sum(line.startswith("won") for line in lines)
    assert [earlier for _, earlier, _ in actions[1:]] == [later for _, _, later in actions[:-1]]
    assert production.registry.names(f"{MODEL}.") == []


def test_the_lock_of_a_dead_holder_is_broken(
    production: Filled, production_registry: ProductionRegistry
) -> None:
    holder = start(HOLDING, production.registry.tracking_uri)
    holder.kill()
    holder.communicate()
    version = 4 if production.aliases().get("champion") != 4 else 3
    with pytest.raises(Conflict, match="ada@lab"):
        promote(production.registry, MODEL, version)
    with psycopg.connect(production_registry.database) as database:
        database.execute(
            "UPDATE registered_models SET creation_time = creation_time - %s WHERE name = %s",
            (int(HOLD_S * 1000), f"{MODEL}.lock"),
        )
    assert promote(production.registry, MODEL, version)


@pytest.fixture
def sync_port() -> Iterator[tuple[int, threading.Event]]:
    """The port of sync, and what its webhooks set."""
    woken = threading.Event()
    (port,) = free_ports(1)
    app = listener(Webhooks(SECRET), woken.set, dict, str)
    server = uvicorn.Server(uvicorn.Config(app, LOOPBACK, port, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    yield port, woken
    server.should_exit = True
    thread.join()


def test_the_webhook_of_the_document_wakes_sync(
    production: Filled, sync_port: tuple[int, threading.Event]
) -> None:
    port, woken = sync_port
    page = (ROOT / "docs" / "promotion.md").read_text()
    (snippet,) = [
        code for code in re.findall(r"```python\n(.*?)```", page, re.S) if "create_webhook" in code
    ]
    for printed, here in (
        ("http://mlflow:5000", production.registry.tracking_uri),
        ("http://gateway:8003", f"http://{LOOPBACK}:{port}"),
        ('secret="..."', f'secret="{SECRET}"'),
    ):
        assert printed in snippet
        snippet = snippet.replace(printed, here)
    exec(snippet, {})
    assert not woken.is_set()
    production.registry.set_alias(MODEL, "champion", 1)
    assert woken.wait(30)


def test_files_that_were_changed_in_the_store_are_not_promoted(
    production: Filled, tmp_path: Path
) -> None:
    run_id = production.state().find(2).registered.run_id
    (tmp_path / "contract.json").write_text('{"family": "another"}')
    production.client.log_artifacts(run_id, str(tmp_path), "model")
    promote(production.registry, MODEL, 1)
    with pytest.raises(VersionRefused, match="not those that passed the gates"):
        promote(production.registry, MODEL, 2)
