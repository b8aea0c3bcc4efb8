"""Settings of `nuclei serve`, read once from the environment (`NUCLEI_...`)."""

from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from nuclei.errors import InvalidOption
from serving.process.ports import LOOPBACK

ROOT = Path(__file__).parents[1]
TRITON_ENVIRONMENT = ROOT / ".venv-triton"

Settings = TypeVar("Settings", bound=BaseSettings)

_ANY_ADDRESSES = ("0.0.0.0", "::", "")


class ServeSettings(BaseSettings):
    """Settings of `nuclei serve`; `NUCLEI_HTTP_PORT=8080` sets `http_port`.

    Those of the gateway itself (`GatewaySettings`) are read by its own process.

    Attributes:
        host: address on which the gateway listens, HTTP and gRPC.
        http_port: port of the gateway's HTTP API.
        grpc_port: port of the gateway's gRPC API.
        repository: Triton's model repository.
        state: folder for logs and what the servers need to write.
        triton_http_port: port of Triton's HTTP API, on loopback.
        triton_grpc_port: port of Triton's gRPC API, on loopback.
        triton_metrics_port: port of Triton's metrics, on loopback.
        triton_environment: virtual environment of Triton.
        check_frame: the frame segmented as a check of the whole way.
        start_s: most seconds that the gateway may take to start.
        stop_s: most seconds that the gateway may take to finish its requests.
    """

    model_config = SettingsConfigDict(env_prefix="NUCLEI_", frozen=True)

    host: str = LOOPBACK
    http_port: int = Field(default=3000, ge=1, le=65535)
    grpc_port: int = Field(default=50051, ge=1, le=65535)
    repository: Path = Path("model_repository")
    state: Path = Path(".state")
    triton_http_port: int = Field(default=8000, ge=1, le=65535)
    triton_grpc_port: int = Field(default=8001, ge=1, le=65535)
    triton_metrics_port: int = Field(default=8002, ge=1, le=65535)
    triton_environment: Path = TRITON_ENVIRONMENT
    check_frame: Path = ROOT / "examples" / "fluorescence.png"
    start_s: float = Field(default=90.0, gt=0)
    stop_s: float = Field(default=30.0, gt=0)

    @property
    def reachable_host(self) -> str:
        """A host by which this machine reaches the gateway."""
        return LOOPBACK if self.host in _ANY_ADDRESSES else self.host


def read_settings(kind: type[Settings]) -> Settings:
    """Settings as the environment has them.

    Raises:
        InvalidOption: one of them is impossible; says which.
    """
    try:
        return kind()
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        name = "_".join(str(part) for part in first["loc"])
        raise InvalidOption(
            f"the setting NUCLEI_{name.upper()} is impossible: {first['msg']}"
        ) from None
