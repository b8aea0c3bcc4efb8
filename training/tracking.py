"""MLflow: one run per training, one registered model version per trained model."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuclei.registry import (
    ARTIFACT_FOLDER,
    TRAINING_EXPERIMENT,
    experiment_id,
    import_mlflow,
    registered_name,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RUN_ID_FILE = "mlflow_run_id"
SYSTEM_METRICS_SECONDS = 30


@dataclass(frozen=True)
class ModelVersion:
    """A registered model version."""

    name: str
    version: str
    run_id: str


class Run:
    """The current MLflow run.

    Attributes:
        id: of the run.
    """

    def __init__(self, run_id: str) -> None:
        self.id = run_id
        self._mlflow = import_mlflow()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each curve."""
        self._mlflow.log_metrics(dict(values), step=step)

    def history(self, points: Sequence[Mapping[str, float]]) -> None:
        """Log whole curves, including the points reached before this run began.

        Args:
            points: metrics by name, and `step`.
        """
        for point in points:
            metrics = {name: value for name, value in point.items() if name != "step"}
            known = self._mlflow.MlflowClient().get_metric_history(self.id, next(iter(metrics)))
            if point["step"] not in {entry.step for entry in known}:
                self.metrics(int(point["step"]), metrics)

    def picture(self, figure: "Figure", name: str) -> None:
        self._mlflow.log_figure(figure, f"pictures/{name}")

    def text(self, text: str, name: str) -> None:
        self._mlflow.log_text(text, name)

    def tags(self, tags: Mapping[str, Any]) -> None:
        self._mlflow.set_tags(dict(tags))

    def register(self, family: str, artifacts: Path, tags: Mapping[str, Any]) -> ModelVersion:
        """Store a model's folder (`contract.json` and ONNX graphs) as a new registered version."""
        self._mlflow.log_artifacts(str(artifacts), ARTIFACT_FOLDER)
        client = self._mlflow.MlflowClient()
        name = registered_name(family)
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        version = client.create_model_version(
            name,
            source=f"runs:/{self.id}/{ARTIFACT_FOLDER}",
            run_id=self.id,
            tags={key: str(value) for key, value in tags.items()},
        )
        return ModelVersion(name, str(version.version), self.id)


@contextmanager
def tracked_run(
    folder: Path, tracking_uri: str, name: str, parameters: Mapping[str, Any]
) -> Iterator[Run]:
    """Open the MLflow run of a training folder: a new one, or the one a killed training began.

    A folder that comes from another machine, whose runs are elsewhere, gets a new one.

    Parameters, the git commit, the installed packages and system metrics are logged.

    Args:
        folder: of the training run; the run's id is stored in it.
        tracking_uri: any MLflow tracking URI.
        name: of the run.
        parameters: the options of the training.
    """
    mlflow = import_mlflow()
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_system_metrics_sampling_interval(SYSTEM_METRICS_SECONDS)
    remembered = folder / RUN_ID_FILE
    run_id = _known(remembered.read_text()) if remembered.exists() else None
    with mlflow.start_run(
        run_id=run_id,
        experiment_id=experiment_id(tracking_uri, TRAINING_EXPERIMENT),
        run_name=name,
        log_system_metrics=True,
    ) as active:
        if run_id is None:
            mlflow.log_params(dict(parameters))
            remembered.write_text(active.info.run_id)
        # Logged again by a resumed run: its last environment is the one that made the model.
        mlflow.log_text(_installed_packages(), "environment.txt")
        mlflow.set_tag("git_commit", _git_commit())
        yield Run(active.info.run_id)


def _known(run_id: str) -> str | None:
    mlflow = import_mlflow()
    try:
        mlflow.get_run(run_id)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run_id


def _installed_packages() -> str:
    return "\n".join(sorted(f"{d.metadata['Name']}=={d.version}" for d in distributions())) + "\n"


def _git_commit() -> str:
    here = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
