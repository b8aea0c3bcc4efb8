"""Settings of the gateway process, read once from the environment (`NUCLEI_...`)."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field, SecretStr

from nuclei.names import check_name
from nuclei.process.ports import LOOPBACK, reachable
from nuclei.quoting import quoted
from serving.settings import ProcessSettings

if TYPE_CHECKING:
    from nuclei.imaging.images import FrameLimits
    from serving.gateway.bounds import Bounds

DNS = "dns:///"
_HOST = r"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.%]+\])"
_TRITON = re.compile(rf"(dns:///)?{_HOST}:[1-9][0-9]{{0,4}}|unix:[^,]+")
# What a request may hold besides the frame itself.
ENVELOPE_BYTES = 2**20


def number_of_processors() -> int:
    return os.cpu_count() or 1


def _triton_address(text: str) -> str:
    for address in text.split(","):
        if not _TRITON.fullmatch(address.strip()):
            raise ValueError(
                f"{quoted(address.strip())} is no address of a Triton; expected host:port, "
                "dns:///host:port or unix:PATH"
            )
    return text


def _model_name(name: str) -> str:
    check_name(name, "NUCLEI_DEFAULT_MODEL")
    return name


class GatewaySettings(ProcessSettings):
    """Settings of the gateway; `NUCLEI_THREADS=4` sets `threads`."""

    host: str = Field(default=LOOPBACK, description="Address to listen on, HTTP and gRPC.")
    http_port: int = Field(default=3000, ge=1, le=65535, description="Port of the HTTP API.")
    grpc_port: int = Field(default=50051, ge=1, le=65535, description="Port of the gRPC API.")
    triton_address: Annotated[str, AfterValidator(_triton_address)] = Field(
        default="127.0.0.1:8001",
        description="host:port of Triton's gRPC API, or `unix:` and the path of its socket, which "
        "`nuclei serve` sets; several, separated by commas, share the tiles. `dns:///host:port` "
        "stands for all addresses of the host, such as those of a headless Service of Kubernetes, "
        "which are looked up again every 2 s.",
    )
    triton_pixels: int = Field(
        default=4 * 512 * 512,
        ge=1,
        description="Most pixels in inference at once on each Triton, each view of a tile counted. "
        "On a CPU four tiles of 512 x 512 are best: two are computed, two are on their way. A GPU "
        "wants batches: 4194304 or more.",
    )
    threads: int = Field(
        default_factory=number_of_processors,
        ge=1,
        description="Threads that copy files to decoders, post-process and encode.",
    )
    default_model: Annotated[str, AfterValidator(_model_name)] = Field(
        default="unet",
        description="Model of a request that names none; the service is ready when Triton serves "
        "it. Where it is not set and the repository has no `unet`, `nuclei serve` takes the first "
        "model.",
    )
    max_side_px: int = Field(default=16384, ge=1, description="Longest side of a frame, pixels.")
    max_pixels: int = Field(default=16384 * 16384, ge=1, description="Most pixels of a frame.")
    max_request_bytes: int = Field(
        default=2**30,
        ge=1,
        le=2**31 - 1 - ENVELOPE_BYTES,
        description="Longest frame as it is sent, encoded or raw, bytes.",
    )
    max_frames_in_flight: int = Field(
        default=64, ge=1, description="Most frames held at once, waiting or in work."
    )
    max_bytes_in_flight: int = Field(
        default=3 * 2**30,
        ge=1,
        description="Most memory for those frames, as estimated from their sizes, bytes.",
    )
    max_frames_in_work: int = Field(
        default=5,
        ge=1,
        description="Most frames worked on at once; the others wait for their turn. Of one host it "
        "is one less, of one connection or stream two less, as long as one is left.",
    )
    max_connections: int = Field(
        default=512,
        ge=4,
        description="Most connections at once to each of the two ports; one host has half of them. "
        "Beyond that those end that have been silent longest and hold no frame and no stream.",
    )
    default_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="Time for a request without a deadline of its own, seconds.",
    )
    reader_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="How long a caller may leave an answer unread before its call or connection "
        "ends, seconds.",
    )
    rollout_max_error_rate: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="A challenger is aborted when more of its frames fail that the champion "
        "answers.",
    )
    rollout_max_latency_ratio: float = Field(
        default=2.0,
        gt=0,
        description="A challenger is aborted when it takes longer than so many times the "
        "champion's time.",
    )
    rollout_min_agreement: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="A challenger is aborted when the mean AP@.5 of its nuclei against the "
        "champion's is lower, in shadow.",
    )
    rollout_min_frames: int = Field(
        default=20,
        ge=2,
        description="Least number of frames after which a challenger may be aborted; then too "
        "only if a figure is out of its bounds by more than chance explains.",
    )
    drain_s: float = Field(
        default=10.0,
        ge=0,
        description="Time that running requests get to finish after SIGTERM, seconds.",
    )
    tls_certificate: Path | None = Field(
        default=None,
        description="PEM file with the server's certificate and its chain; without it the gateway "
        "speaks plain text. It is read at start: a new one needs a restart.",
    )
    tls_key: Path | None = Field(
        default=None,
        description="PEM file with the key of that certificate, without a password.",
    )
    tls_client_ca: Path | None = Field(
        default=None,
        description="PEM file with the authorities whose certificates callers must show (mTLS), "
        "over gRPC and HTTP, health checks included. Without it callers need no certificate.",
    )
    tls_own_certificate: Path | None = Field(
        default=None,
        description="PEM file with the certificate that `nuclei serve` shows when it checks a "
        "gateway with tls_client_ca; without it, tls_certificate.",
    )
    tls_own_key: Path | None = Field(
        default=None, description="PEM file with the key of that certificate."
    )
    token: SecretStr | None = Field(
        default=None,
        description="What callers must send as `authorization: Bearer TOKEN`, for everything but "
        "health; without it callers need none. Without TLS on a public address it can be read on "
        "the way: that is logged as a warning and not refused, because TLS often ends in front of "
        "this process, at an ingress or a sidecar.",
    )
    registry: str = Field(
        default="",
        description="MLflow registry that the page `/models` and `/v1/registry` show, such as "
        "`http://mlflow:5000`; `nuclei serve --sync` sets it. Without it they know only what is "
        "served.",
    )
    administrator_token: SecretStr | None = Field(
        default=None,
        description="What has to be sent as `authorization: Bearer TOKEN` to promote and roll back "
        "on that page; it opens everything else, too. Without it nobody can, there.",
    )
    cors_origins: str = Field(
        default="",
        pattern=r"^(\*|https?://[^/,\s]+(,https?://[^/,\s]+)*)?$",
        description="Origins whose pages may call the HTTP API from a browser, such as "
        "`https://viewer.example.org`, separated by commas; `*` for all. Without it browsers keep "
        "answers from other pages.",
    )
    live: bool = Field(
        default=True,
        description="Answer `/v1/live`, by which the page `/live` shows small pictures of the "
        "frames of streams to whoever may call the service.",
    )
    insecure: bool = Field(
        default=False,
        description="Listen on a public address although callers need neither token nor "
        "certificate.",
    )
    sync_health_file: Path | None = Field(
        default=None,
        description="File whose line `/readyz` adds to its answer: whether sync is in step with "
        "the registry. `nuclei serve` sets it.",
    )
    traces: str = Field(
        default="",
        description="OTLP/HTTP endpoint for traces, such as `http://127.0.0.1:4318/v1/traces`; "
        "without it no traces are made.",
    )

    @property
    def triton_addresses(self) -> list[str]:
        """Those that stay, host:port or unix:PATH each."""
        return [each for each in self._tritons if not each.startswith(DNS)]

    @property
    def triton_names(self) -> list[str]:
        """Those whose addresses are looked up again and again, dns:///host:port each."""
        return [each for each in self._tritons if each.startswith(DNS)]

    @property
    def _tritons(self) -> list[str]:
        return [address.strip() for address in self.triton_address.split(",")]

    @property
    def reachable_host(self) -> str:
        """A host by which this machine reaches the gateway."""
        return reachable(self.host)

    @property
    def frame_limits(self) -> "FrameLimits":
        # The supervisor reads these settings and no images.
        from nuclei.imaging.images import FrameLimits

        return FrameLimits(self.max_side_px, self.max_pixels, self.max_request_bytes)

    @property
    def rollout_bounds(self) -> "Bounds":
        from serving.gateway.bounds import Bounds

        return Bounds(
            self.rollout_max_error_rate,
            self.rollout_max_latency_ratio,
            self.rollout_min_agreement,
            self.rollout_min_frames,
        )

    @property
    def max_accepted_connections(self) -> int:
        """Connections to a port, from which on new ones are refused until silent ones end."""
        return 2 * self.max_connections

    @property
    def max_message_bytes(self) -> int:
        """Longest gRPC message: a frame and what comes with it."""
        return self.max_request_bytes + ENVELOPE_BYTES
