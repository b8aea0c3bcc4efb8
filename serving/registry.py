"""The registry of model versions: MLflow's, read and written here alone."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from nuclei.errors import InvalidData, ModelNotFound, NucleiError, RegistryUnavailable
from nuclei.names import check_name, is_name
from nuclei.quoting import quoted, sentence, without_password
from nuclei.registry import (
    ARTIFACT_FOLDER,
    PROMOTION_EXPERIMENT,
    SQLITE,
    experiment_id,
    import_mlflow,
)
from serving.promotion.artifacts import artifact_files, check_listing
from serving.repository.files import check_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import FileInfo
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.entities.model_registry import RegisteredModel as MlflowModel

MAX_MODELS = 1000
# A server on S3 sends the first byte of a file once it has all of it.
ANSWER_S = 30
NOT_FOUND = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of a registered model.

    Attributes:
        model: name of the registered model.
        version: its number, 1 for the first.
        aliases: names that point at it, such as `champion`.
        created: when it was registered.
        tags: what training noted about it: scores and settings.
        run_id: the MLflow run that made it; None when none is known.
    """

    model: str
    version: int
    aliases: tuple[str, ...]
    created: datetime
    tags: dict[str, str]
    run_id: str | None


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model at one moment.

    Attributes:
        name: of the model.
        aliases: versions by the names that point at them; a version may have been deleted.
        tags: of the model as a whole.
        versions: newest first.
        created: when it was registered, by the registry's clock.
        description: free text.
    """

    name: str
    aliases: dict[str, int]
    tags: dict[str, str]
    versions: tuple[RegisteredVersion, ...]
    created: datetime
    description: str


@dataclass(frozen=True)
class Run:
    """An MLflow run, such as a training.

    Attributes:
        params: its options.
        metrics: the last value of each curve.
        tags: without MLflow's own.
    """

    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


class Registry:
    """A registry of models at an MLflow tracking URI."""

    def __init__(self, tracking_uri: str) -> None:
        """Name the registry; nothing is read yet.

        Args:
            tracking_uri: `sqlite:///...`, `http://...` or another that MLflow knows.
        """
        # MLflow reads these when it is imported; its own patience with a server that does not
        # answer is minutes, and a sync process counts as gone sooner.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(ANSWER_S))
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        import_mlflow()
        self.tracking_uri = tracking_uri
        self._shown = without_password(tracking_uri)
        self._client: MlflowClient | None = None

    def versions(self, model: str) -> list[RegisteredVersion]:
        """All versions of a model, newest first; none when it was never registered.

        Raises:
            InvalidOption: `model` is no name.
            RegistryUnavailable: the registry does not answer.
        """
        found = self._models(model)
        return list(found[0].versions) if found else []

    def model(self, name: str) -> RegisteredModel:
        """A registered model with its aliases, tags and versions.

        Raises:
            InvalidOption: `name` is no name.
            ModelNotFound: there is no such model.
            RegistryUnavailable: the registry does not answer.
        """
        for found in self._models(name):
            return found
        raise ModelNotFound(
            f"'{name}' is not registered in {self._shown}; see `nuclei models`, train a "
            "model, or name another registry with --tracking-uri"
        )

    def find(
        self, model: str, version: int | None = None, alias: str | None = None
    ) -> RegisteredVersion:
        """One version: the given, the alias's, or else the newest.

        Raises:
            InvalidOption: `model` or `alias` is no name.
            ModelNotFound: the registry has no such model, version or alias.
            RegistryUnavailable: the registry does not answer.
        """
        if alias is not None:
            check_name(alias, "alias")
        for entry in self.versions(model):
            wanted_version = version is None or entry.version == version
            wanted_alias = alias is None or alias in entry.aliases
            if wanted_version and wanted_alias:
                return entry
        asked = f"version {version}" if version else f"alias '{alias}'" if alias else "version"
        raise ModelNotFound(
            f"'{model}' has no {asked} in {self._shown}; see `nuclei models`, "
            "train a model, or name another registry with --tracking-uri"
        )

    def download(self, entry: RegisteredVersion, folder: Path) -> Path:
        """Fetch the artifacts of a version.

        Args:
            entry: the version.
            folder: existing folder that receives them.

        Returns:
            The folder with contract.json and the ONNX graphs.

        Raises:
            InvalidData: the artifacts are gone, too many, too large, no plain files, or lie
                elsewhere than those of the run that made the version.
            RegistryUnavailable: the registry or its store does not answer.
        """
        from mlflow.artifacts import download_artifacts, list_artifacts
        from mlflow.utils.file_utils import local_file_uri_to_path

        with self._translated(entry.model):
            source = self._connected().get_model_version_download_uri(
                entry.model, str(entry.version)
            )
        home = self._artifacts_of_run(entry)
        below = _below_run(source, (f"runs:/{entry.run_id}", home), entry)
        with self._fetching(entry, source):
            # MLflow follows links of a store that is a folder here.
            if urlparse(home).scheme in ("", "file"):
                stored = Path(local_file_uri_to_path(home), below)
                if stored.is_dir():
                    artifact_files(stored)
            listed = list_artifacts(artifact_uri=source, tracking_uri=self.tracking_uri)
            if not listed:
                raise FileNotFoundError("there is none")
            check_listing((_listed_name(file), file.file_size or 0) for file in listed)
            downloaded = Path(
                download_artifacts(
                    artifact_uri=source, dst_path=str(folder), tracking_uri=self.tracking_uri
                )
            )
        artifact_files(downloaded)
        return downloaded

    @contextmanager
    def _fetching(self, entry: RegisteredVersion, source: str) -> Iterator[None]:
        """Tell files that are gone or no model's from a store that does not answer."""
        from mlflow.exceptions import MlflowException

        what = f"the files of {entry.model} version {entry.version} cannot be fetched from {source}"
        try:
            yield
        except NucleiError:
            raise
        # Each store has errors of its own: boto3's share no base class with others.
        except Exception as error:
            gone = isinstance(error, FileNotFoundError) or (
                isinstance(error, MlflowException) and error.error_code in NOT_FOUND
            )
            reason = sentence(_first_line(error))
            if gone:
                raise InvalidData(f"{what} ({reason}); register the model again") from error
            raise RegistryUnavailable(
                f"{what} ({reason}); check the registry and its store"
            ) from error

    def register(self, model: str, artifacts: Path, tags: Mapping[str, str]) -> int:
        """Register files as a new version of a model, in a run of its own.

        Args:
            model: name of the registered model, made when missing.
            artifacts: one level of files.
            tags: of the version.

        Returns:
            Its number.

        Raises:
            RegistryUnavailable: the registry does not answer.
        """
        with self.recorded_run(f"{model} as it was served") as run, self._translated(model):
            client = self._connected()
            client.log_artifacts(run.id, str(artifacts), ARTIFACT_FOLDER)
            if not client.search_registered_models(f"name = '{model}'"):
                client.create_registered_model(model)
            source = f"runs:/{run.id}/{ARTIFACT_FOLDER}"
            return int(client.create_model_version(model, source, run.id, tags=dict(tags)).version)

    def begun_run(self, name: str, run_id: str = "") -> "RecordedRun":
        """A run that stays open until its `end`: the one of this id, or else a new one.

        Raises:
            RegistryUnavailable: the registry does not answer.
        """
        if run_id:
            with suppress(ModelNotFound), self._translated(run_id):
                return RecordedRun(self, self._connected().get_run(run_id).info.run_id)
        return RecordedRun(self, self._created_run(name))

    def _created_run(self, name: str) -> str:
        with self._translated(name):
            experiment = experiment_id(self.tracking_uri, PROMOTION_EXPERIMENT)
            return str(self._connected().create_run(experiment, run_name=name).info.run_id)

    def run(self, run_id: str) -> Run:
        """A run.

        Raises:
            ModelNotFound: there is no such run.
            RegistryUnavailable: the registry does not answer.
        """
        with self._translated(run_id):
            found = self._connected().get_run(run_id).data
            tags = {k: v for k, v in found.tags.items() if not k.startswith("mlflow.")}
            return Run(dict(found.params), dict(found.metrics), tags)

    def names(self, prefix: str, alias: str | None = None) -> list[str]:
        """The registered models whose names begin so.

        Args:
            prefix: of the names.
            alias: that they are to have; None for all.

        Raises:
            RegistryUnavailable: the registry does not answer.
        """
        if self._is_missing_database():
            return []
        with self._translated(prefix):
            found = self._connected().search_registered_models(
                f"name LIKE '{prefix}%'", max_results=MAX_MODELS
            )
            named = [entry for entry in found if entry.name.startswith(prefix)]
            return [entry.name for entry in named if alias is None or alias in entry.aliases]

    def create_model(self, name: str, description: str = "") -> datetime | None:
        """Register a model without versions; of two who register a name, one succeeds.

        Returns:
            When, by the registry's clock; None when there is a model of this name.

        Raises:
            RegistryUnavailable: the registry does not answer.
        """
        with self._translated(name):
            created = self._unless_taken(
                lambda: self._connected().create_registered_model(name, description=description)
            )
            return None if created is None else _time(created.creation_timestamp)

    def rename_model(self, name: str, new_name: str) -> bool:
        """Rename a model; False when there is one of the new name. Raises as `model`."""
        with self._translated(name):
            renamed = self._unless_taken(
                lambda: self._connected().rename_registered_model(name, new_name)
            )
            return renamed is not None

    def delete_model(self, name: str) -> None:
        """Delete a model and its versions; raises as `model`."""
        with self._translated(name):
            self._connected().delete_registered_model(name)

    @contextmanager
    def recorded_run(self, name: str) -> "Iterator[RecordedRun]":
        """Open a run that records what was found about a model; an error makes it a failed one.

        Raises:
            RegistryUnavailable: the registry does not answer.
        """
        run = RecordedRun(self, self._created_run(name))
        status = "FAILED"
        try:
            yield run
            status = "FINISHED"
        finally:
            run.end(status)

    def read_artifact(self, run_id: str, name: str, max_bytes: int) -> bytes:
        """A file that a run recorded.

        Raises:
            InvalidData: it is gone or too large.
        """
        from mlflow.exceptions import MlflowException

        try:
            with TemporaryDirectory() as scratch:
                sizes = {
                    file.path: file.file_size for file in self._connected().list_artifacts(run_id)
                }
                if (sizes.get(name) or 0) > max_bytes:
                    raise InvalidData(f"{name} of run {quoted(run_id)} is too large")
                path = Path(self._connected().download_artifacts(run_id, name, scratch))
                check_file(path, max_bytes)
                return path.read_bytes()
        except (MlflowException, OSError) as error:
            raise InvalidData(
                f"{name} of run {quoted(run_id)} cannot be fetched ({_first_line(error)})"
            ) from error

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Let an alias point at a version, wherever it pointed before; raises as `model`."""
        with self._translated(model):
            self._connected().set_registered_model_alias(model, alias, str(version))

    def delete_alias(self, model: str, alias: str) -> None:
        """Remove an alias, if it is there; raises as `model`."""
        with self._translated(model):
            self._connected().delete_registered_model_alias(model, alias)

    def set_tags(self, model: str, tags: Mapping[str, str], version: int | None = None) -> None:
        """Set tags of a model, or of one of its versions; raises as `model`."""
        with self._translated(model):
            for key, value in tags.items():
                if version is None:
                    self._connected().set_registered_model_tag(model, key, value)
                else:
                    self._connected().set_model_version_tag(model, str(version), key, value)

    def delete_tag(self, model: str, key: str, version: int | None = None) -> None:
        """Remove a tag of a model, or of one of its versions, if it is there; raises as `model`."""
        with self._translated(model):
            if version is None:
                self._connected().delete_registered_model_tag(model, key)
            else:
                self._connected().delete_model_version_tag(model, str(version), key)

    @staticmethod
    def _unless_taken(change: "Callable[[], MlflowModel]") -> "MlflowModel | None":
        from mlflow.exceptions import MlflowException

        try:
            return change()
        except MlflowException as error:
            if error.error_code == "RESOURCE_ALREADY_EXISTS":
                return None
            raise

    def _models(self, name: str) -> list[RegisteredModel]:
        """The model of this name, or none."""
        check_name(name, "registered model")
        if self._is_missing_database():
            return []
        with self._translated(name):
            found = self._connected().search_registered_models(f"name = '{name}'")
            versions = self._connected().search_model_versions(f"name = '{name}'") if found else []
            return [_model(entry, versions) for entry in found]

    def _artifacts_of_run(self, entry: RegisteredVersion) -> str:
        """Where the files of the run lie that made a version."""
        try:
            with self._translated(entry.model):
                return str(self._connected().get_run(str(entry.run_id)).info.artifact_uri)
        except ModelNotFound as error:
            raise InvalidData(
                f"the run that made {entry.model} version {entry.version} is not known; register "
                "the model again"
            ) from error

    def _connected(self) -> "MlflowClient":
        from mlflow import MlflowClient

        if self._client is None:
            self._client = MlflowClient(self.tracking_uri, self.tracking_uri)
        return self._client

    def _is_missing_database(self) -> bool:
        """Whether there is no such file: MLflow would make an empty database of a mistyped path."""
        return (
            self.tracking_uri.startswith(SQLITE)
            and not Path(self.tracking_uri.removeprefix(SQLITE)).exists()
        )

    @contextmanager
    def _translated(self, model: str) -> Iterator[None]:
        """Raise errors of MLflow and of its database as ours."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        # The last three: numbers and times of a server that are none.
        except (MlflowException, SQLAlchemyError, ValueError, TypeError, OverflowError) as error:
            if isinstance(error, MlflowException) and error.error_code in NOT_FOUND:
                raise ModelNotFound(f"'{model}' is not known to {self._shown}") from error
            raise RegistryUnavailable(
                f"the registry at {self._shown} does not answer ({_first_line(error)}); "
                "check --tracking-uri"
            ) from error


def _model(entry: "MlflowModel", versions: "Sequence[ModelVersion]") -> RegisteredModel:
    aliases = {name: int(version) for name, version in entry.aliases.items()}
    found = (_version(version, aliases) for version in versions)
    newest_first = sorted(found, key=lambda version: version.version, reverse=True)
    return RegisteredModel(
        entry.name,
        aliases,
        dict(entry.tags),
        tuple(newest_first),
        _time(entry.creation_timestamp),
        entry.description or "",
    )


def _version(entry: "ModelVersion", aliases: dict[str, int]) -> RegisteredVersion:
    number = int(entry.version)
    return RegisteredVersion(
        model=entry.name,
        version=number,
        aliases=tuple(sorted(name for name, target in aliases.items() if target == number)),
        created=_time(entry.creation_timestamp),
        tags=dict(entry.tags),
        run_id=entry.run_id,
    )


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


@dataclass(frozen=True)
class RecordedRun:
    """A run of `Registry.recorded_run`; its methods raise RegistryUnavailable.

    Attributes:
        registry: that it belongs to.
        id: of the run.
    """

    registry: Registry
    id: str

    def text(self, text: str, name: str) -> None:
        """Record a file."""
        with self._client() as client:
            client.log_text(self.id, text, name)

    def file(self, content: bytes, folder: str, name: str) -> None:
        """Record a file in a folder."""
        with TemporaryDirectory() as scratch, self._client() as client:
            path = Path(scratch) / name
            path.write_bytes(content)
            client.log_artifact(self.id, str(path), folder)

    def end(self, status: str = "FINISHED") -> None:
        """Nothing more is recorded."""
        with self._client() as client:
            client.set_terminated(self.id, status)

    def metrics(self, values: Mapping[str, float]) -> None:
        """Record numbers."""
        with self._client() as client:
            for name, value in values.items():
                client.log_metric(self.id, name, value)

    def tags(self, tags: Mapping[str, str]) -> None:
        """Record texts."""
        with self._client() as client:
            for name, value in tags.items():
                client.set_tag(self.id, name, value)

    def dataset(self, name: str, fingerprint: str, profile: Mapping[str, Any]) -> None:
        """Record a data set that was used, as MLflow's own entity.

        Args:
            name: of the set.
            fingerprint: SHA-256; MLflow keeps 36 characters, the profile all.
            profile: what else is to be known about it.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        known = json.dumps({**profile, "sha256": fingerprint})
        entity = Dataset(name, fingerprint[:36], "local", json.dumps({"name": name}), profile=known)
        with self._client() as client:
            context = InputTag("mlflow.data.context", "evaluation")
            client.log_inputs(self.id, datasets=[DatasetInput(entity, [context])])

    @contextmanager
    def _client(self) -> "Iterator[MlflowClient]":
        with self.registry._translated(self.id):
            yield self.registry._connected()


def _below_run(source: str, homes: Sequence[str], entry: RegisteredVersion) -> str:
    """Path of a version's files below the folder of the run that made it.

    Raises InvalidData when they lie elsewhere: whoever can register a version may name any folder.
    """
    for home in homes:
        below = source.removeprefix(f"{home.rstrip('/')}/").rstrip("/")
        if below != source.rstrip("/") and all(map(is_name, below.split("/"))):
            return below
    raise InvalidData(
        f"the files of {entry.model} version {entry.version} lie at {quoted(source)}, which is no "
        "folder of the run that made it; register it as training does, from runs:/RUN/model"
    )


def _listed_name(file: "FileInfo") -> str:
    """The name of a file in the list of a store; the path of what is none, which is no name."""
    plain = not file.is_dir and all(map(is_name, file.path.split("/")))
    return str(file.path.rpartition("/")[2]) if plain else f"{file.path}/"


def _first_line(error: Exception) -> str:
    # Some say nothing, such as a TimeoutError.
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return without_password(line)
