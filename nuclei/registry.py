"""Where model versions are registered: training writes there, serving reads there."""

import os
from pathlib import Path
from typing import Any

SQLITE = "sqlite:///"
ARTIFACT_FOLDER = "model"
TRAINING_EXPERIMENT = "nuclei"
PROMOTION_EXPERIMENT = "nuclei-promotion"
REGISTERED_PREFIX = "nuclei-"
# The tag of a model version with its licence, an SPDX expression; those with the licence and the
# citation of each data set that it learned from begin with the other.
LICENCE_TAG = "licence"
DATA_TAG = "data_set."
# The alias of the version of a model that answers.
CHAMPION = "champion"
# Tags of a model version: of what network it is, and from which version its training started, as
# `nuclei-unet:3`.
ARCHITECTURE_TAG = "architecture"
ENCODER_TAG = "encoder"
PARENT_TAG = "parent"


def default_tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or a SQLite database in `~/.nuclei`, whatever the current folder is."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{home() / 'mlflow.db'}"


def home() -> Path:
    """`~/.nuclei`, made when it is missing."""
    folder = Path.home() / ".nuclei"
    folder.mkdir(exist_ok=True)
    return folder


def registered_name(family: str) -> str:
    """Name of a family's registered model: `nuclei-unet`, `nuclei-mask-rcnn`."""
    return f"{REGISTERED_PREFIX}{family.replace('_', '-')}"


# The model that ships, and that a request without a name gets.
DEFAULT_FAMILY = "unet"
DEFAULT_MODEL = registered_name(DEFAULT_FAMILY)


def experiment_id(tracking_uri: str, name: str) -> str:
    """Id of an experiment, made when it is missing.

    With a local database, artifacts go to an absolute folder beside it.
    """
    client = import_mlflow().MlflowClient(tracking_uri)
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = None
    if tracking_uri.startswith(SQLITE):
        database = Path(tracking_uri.removeprefix(SQLITE)).resolve()
        location = (database.parent / "artifacts").as_uri()
    return str(client.create_experiment(name, artifact_location=location))


def import_mlflow() -> Any:
    """MLflow; imported here, it sends no telemetry, as it would by default."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    return mlflow
