"""Settings of our processes, each read once from the environment (`NUCLEI_...`).

ProcessSettings         what every process reads
├── FollowingSettings
│   ├── ServeSettings   of `nuclei serve`, which runs Triton, the gateway and sync
│   └── SyncSettings    of sync (`serving.promotion.settings`)
├── ProbeSettings       of `nuclei probe`
└── GatewaySettings     of the gateway (`serving.gateway.settings`); `nuclei serve` reads them too

The descriptions of the fields are those of docs/settings.md (`make settings` writes it).
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from nuclei.errors import InvalidOption
from nuclei.process.ports import LOOPBACK
from nuclei.quoting import quoted
from nuclei.repository import default_repository

ROOT = Path(__file__).parents[1]
TRITON_ENVIRONMENT = ROOT / ".venv-triton"
# A frame with nuclei, to check a service with.
CHECK_FRAME = ROOT / "examples" / "fluorescence.png"
# One of each kind, to check an export with: a version may have a network for each.
FRAME_OF_EACH_KIND = (CHECK_FRAME, ROOT / "examples" / "histology.png")

PREFIX = "NUCLEI_"

Settings = TypeVar("Settings", bound=BaseSettings)


class ProcessSettings(BaseSettings):
    """What all processes have in common; a variable that is set to nothing counts as not set."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    log_format: Literal["text", "json"] = Field(
        default="text",
        description="`text`: a line with time, level, message and `key=value` fields; `json`: an "
        "object a line, with `time`, `level`, `logger`, `message` and the fields.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe record that is logged."
    )


class FollowingSettings(ProcessSettings):
    """What `nuclei serve` and the sync process that it starts have in common."""

    repository: Path = Field(
        default_factory=default_repository,
        description="Model repository; by default `model_repository` in the current folder, or "
        "beside the installed package. With a registry, only what is served until that is reached, "
        "and becomes the first champion where there is none.",
    )
    state: Path = Field(
        default=Path(".state"),
        description="Folder for logs and what the servers write; with a registry also for what "
        "was downloaded (`versions`) and the repository made of it (`synced`).",
    )
    check_frame: Path = Field(
        default=CHECK_FRAME,
        description="Frame that every model segments as a check of the whole way, before the "
        "service says that it is ready. The default model has to find a nucleus in it.",
    )
    sync: str = Field(
        default="",
        description="MLflow registry whose champions are served, such as `http://mlflow:5000` or "
        "`sqlite:////data/mlflow.db`: the models are loaded from there, and followed as long as "
        "the service runs. Without it the repository is served as it is.",
    )
    sync_port: int = Field(
        default=8003,
        ge=1,
        le=65535,
        description="Port of sync: its metrics, its state and MLflow's webhooks.",
    )
    sync_host: str = Field(
        default=LOOPBACK, description="Address that sync listens on; MLflow has to reach it."
    )

    @property
    def sync_health(self) -> Path:
        """File in which sync says whether it is well."""
        return self.state / "sync" / "health"

    @property
    def synced(self) -> Path:
        """The repository that belongs to sync."""
        return self.state / "synced"


class ServeSettings(FollowingSettings):
    """Settings of `nuclei serve`; `NUCLEI_STATE=/var/lib/nuclei` sets `state`."""

    triton_metrics_port: int = Field(
        default=8002, ge=1, le=65535, description="Port of Triton's metrics, on loopback."
    )
    triton_environment: Path = Field(
        default=TRITON_ENVIRONMENT,
        description="Virtual environment with Triton, as `make env` makes it.",
    )
    sync_prepare_s: float = Field(
        default=120.0,
        gt=0,
        description="Longest time to fetch the champions before Triton starts, seconds; then it "
        "starts with what is there.",
    )
    start_s: float = Field(
        default=90.0, gt=0, description="Longest time for the gateway to start, seconds."
    )
    stop_s: float = Field(
        default=30.0,
        gt=0,
        description="Longest time for the gateway to finish its requests when stopped, seconds.",
    )

    @property
    def served_repository(self) -> Path:
        """What Triton serves."""
        return self.synced if self.sync else self.repository


class ProbeSettings(ProcessSettings):
    """Settings of `nuclei probe`; `NUCLEI_PROBE_PORT=9004` sets `probe_port`."""

    probe_every_s: float = Field(
        default=60.0, ge=1, description="From one frame of the probe to the next, seconds."
    )
    probe_port: int = Field(default=8004, ge=1, le=65535, description="Port of its metrics.")
    probe_host: str = Field(default=LOOPBACK, description="Address that it listens on.")


def read_settings(settings: type[Settings]) -> Settings:
    """Settings as the environment has them.

    Raises:
        InvalidOption: one of them is impossible; says which.
    """
    try:
        return settings()
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        name = "_".join(str(part) for part in first["loc"])
        raise InvalidOption(
            f"the setting NUCLEI_{name.upper()} is impossible: {first['msg']}"
        ) from None


def unused_variables(
    environment: Iterable[str], settings: Sequence[type[BaseSettings]], set_by_us: Sequence[str]
) -> list[str]:
    """A sentence for each variable `NUCLEI_...` that has no effect.

    Args:
        environment: names of all variables.
        settings: what is read of them.
        set_by_us: names of fields whose variables are overwritten.
    """
    known = {field for each in settings for field in each.model_fields}
    given = sorted(
        name.removeprefix(PREFIX).lower() for name in environment if name.startswith(PREFIX)
    )
    sentences = []
    for name in given:
        variable = quoted(PREFIX + name.upper())
        if name in set_by_us:
            sentences.append(f"{variable} has no effect: this command sets it itself")
        elif name not in known:
            likely = get_close_matches(name, known - set(set_by_us), n=1, cutoff=0.75)
            hint = f"; did you mean {PREFIX}{likely[0].upper()}?" if likely else ""
            sentences.append(f"{variable} has no effect: there is no such setting{hint}")
    return sentences
