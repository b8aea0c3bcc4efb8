"""A registry with a model whose versions passed their gates."""

from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient

from serving.promotion.artifacts import digest
from serving.promotion.changes import record_gates
from serving.promotion.state import Gates, ModelState, read_state
from serving.registry import Registry

MODEL = "nuclei-unet"
VERSIONS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Filled:
    """A registry with four versions of a model, which passed their gates; none is champion.

    Attributes:
        registry: of the versions.
        client: MLflow's own.
    """

    registry: Registry
    client: MlflowClient

    def state(self) -> ModelState:
        return read_state(self.registry, MODEL)

    def aliases(self) -> dict[str, int]:
        return self.registry.model(MODEL).aliases

    def actions(self) -> list[tuple[str, int | None, int | None]]:
        """The audit trail: action, from, to."""
        changes = (entry.change for entry in self.state().changes)
        return [(change.action, change.from_version, change.to_version) for change in changes]


def fill(client: MlflowClient, location: str | None, folder: Path) -> None:
    """Register a model with four versions whose gates passed."""
    experiment = client.create_experiment("promotion", location)
    client.create_registered_model(MODEL)
    for number in VERSIONS:
        files = folder / str(number)
        files.mkdir()
        (files / "contract.json").write_text(f'{{"family": "{number}"}}')
        run = client.create_run(experiment)
        client.log_artifacts(run.info.run_id, str(files), "model")
        for key, value in {"epochs": 10 * number, "seed": 0}.items():
            client.log_param(run.info.run_id, key, value)
        tags = {"dsb_score": f"0.{number}", "licence": "Apache-2.0"}
        source = f"runs:/{run.info.run_id}/model"
        client.create_model_version(MODEL, source, run.info.run_id, tags=tags)
        gates = Gates(verdict="passed", reason="all gates passed", digest=digest(files))
        record_gates(Registry(client.tracking_uri), MODEL, number, gates)
