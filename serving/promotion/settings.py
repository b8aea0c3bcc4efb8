"""Settings of a sync process, read once from the environment (`NUCLEI_...`)."""

import socket
from pathlib import Path

from pydantic import Field, SecretStr

from nuclei.names import is_name
from serving.settings import FollowingSettings


class SyncSettings(FollowingSettings):
    """Settings of sync; `NUCLEI_SYNC_INTERVAL_S=5` sets `sync_interval_s`."""

    triton_address: str = Field(
        default="127.0.0.1:8001",
        description="host:port of the gRPC API of the Triton beside it, which serves `synced`; "
        "`nuclei serve` sets it.",
    )
    triton_key_file: Path | None = Field(
        default=None,
        description="File with the key of that Triton's control API, where others can reach it, "
        "too; `prepare` makes it before Triton starts.",
    )
    sync_models: str = Field(
        default="",
        description="Registered models to follow, separated by commas; without it those of the "
        "repository and all others named `nuclei-...` that have a champion.",
    )
    sync_instance: str = Field(
        default="",
        description="Name of this process in the registry; without it the machine's, with the "
        "port.",
    )
    sync_interval_s: float = Field(
        default=5.0, gt=0, le=60, description="Time between two looks at the registry, seconds."
    )
    sync_retire_s: float = Field(
        default=60.0,
        ge=0,
        description="How long a version stays loaded when it is no longer wanted, seconds: longer "
        "than the longest frame takes. One that is still asked for stays up to ten times as long.",
    )
    sync_versions: int = Field(
        default=10,
        ge=0,
        description="Most downloaded versions of a model that are kept besides those in use.",
    )
    sync_bytes: int = Field(
        default=20 * 10**9, ge=0, description="Most bytes of downloaded versions of a model."
    )
    sync_webhook_secret: SecretStr | None = Field(
        default=None,
        description="Secret of MLflow's webhooks to `/webhook`, at least 16 characters; without "
        "it none is taken, and the registry is only polled.",
        min_length=16,
    )
    gateways: str = Field(
        default="",
        description="HTTP addresses of the gateways whose reports decide about a rollout, such as "
        "`http://127.0.0.1:3000`, separated by commas; a name stands for all of its addresses. "
        "`nuclei serve` sets its own.",
    )
    token: SecretStr | None = Field(default=None, description="Token of these gateways.")

    @property
    def models(self) -> list[str]:
        return _listed(self.sync_models)

    @property
    def gateway_urls(self) -> list[str]:
        return _listed(self.gateways)

    @property
    def instance(self) -> str:
        """The name of this process, fit for a tag."""
        host = "".join(c if is_name(c) else "-" for c in socket.gethostname())[:48]
        return self.sync_instance or f"{host}-{self.sync_port}"

    @property
    def versions_folder(self) -> Path:
        return self.state / "versions"


def _listed(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]
