"""Settings of the gateway process, read once from the environment (`NUCLEI_...`)."""

import os
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from nuclei.imaging.images import FrameLimits
from serving.process.ports import LOOPBACK

# What a request may hold besides the frame itself.
ENVELOPE_BYTES = 2**20
# Longest time for a request to arrive.
UPLOAD_S = 300


class GatewaySettings(BaseSettings):
    """Settings of the gateway; `NUCLEI_GRPC_PORT=6000` sets `grpc_port`.

    Attributes:
        triton_address: host:port of Triton's gRPC endpoint.
        triton_pixels: most pixels in inference at once, each view of a tile counted. On a CPU four
            tiles of 512 x 512 are best: two are computed, two are on their way. A GPU wants
            batches: 4194304 or more.
        host: address on which HTTP and gRPC listen.
        http_port: port of the HTTP server.
        grpc_port: port of the gRPC server.
        threads: threads that decode, post-process and encode.
        default_model: model of a request that names none; the service is ready when Triton serves
            it. `nuclei serve` takes another of a repository that has no `unet`.
        max_side_px: longest side of a frame.
        max_pixels: most pixels of a frame.
        max_request_bytes: longest encoded or raw frame.
        max_frames_in_flight: most frames held at once, waiting or in work.
        max_bytes_in_flight: most memory for those frames, as estimated from their sizes.
        max_frames_in_work: most frames worked on at once; the others wait for their turn.
        default_timeout_s: time of a request without a deadline of its own, seconds.
        reader_timeout_s: how long a gRPC caller may take no answer before its call ends, seconds.
        drain_s: time that running requests get to finish after SIGTERM, seconds.
        tls_certificate: PEM file with the server's certificate and its chain; None is plain text.
            It is read at start: a new one needs a restart.
        tls_key: PEM file with the key of that certificate, without a password.
        tls_client_ca: PEM file with the authorities whose certificates callers must show (mTLS),
            over gRPC and HTTP, health checks included. None asks callers for no certificate.
        tls_own_certificate: PEM file with the certificate that `nuclei serve` shows when checking a
            gateway with tls_client_ca; None shows tls_certificate.
        tls_own_key: PEM file with the key of that certificate.
        token: what callers must send as `authorization: Bearer TOKEN`, for everything but health;
            None asks for none. Without TLS on a public address it can be read on the way: that is
            logged as a warning and not refused, because TLS often ends in front of this process,
            at an ingress or a sidecar.
        insecure: listen on a public address although callers need neither token nor certificate.
        triton_key: sent with every call to Triton, whose control protocols ask for it.
        traces: OTLP/HTTP endpoint for traces, such as `http://127.0.0.1:4318/v1/traces`; empty
            makes none.
    """

    model_config = SettingsConfigDict(
        env_prefix="NUCLEI_", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    triton_address: str = "127.0.0.1:8001"
    triton_pixels: int = Field(default=4 * 512 * 512, ge=1)
    host: str = LOOPBACK
    http_port: int = Field(default=3000, ge=1, le=65535)
    grpc_port: int = Field(default=50051, ge=1, le=65535)
    threads: int = Field(default=os.cpu_count() or 1, ge=1)
    default_model: str = "unet"
    max_side_px: int = Field(default=16384, ge=1)
    max_pixels: int = Field(default=16384 * 16384, ge=1)
    max_request_bytes: int = Field(default=2**30, ge=1, le=2**31 - 1 - ENVELOPE_BYTES)
    max_frames_in_flight: int = Field(default=64, ge=1)
    max_bytes_in_flight: int = Field(default=3 * 2**30, ge=1)
    max_frames_in_work: int = Field(default=4, ge=1)
    default_timeout_s: float = Field(default=30.0, gt=0)
    reader_timeout_s: float = Field(default=30.0, gt=0)
    drain_s: float = Field(default=10.0, ge=0)
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tls_own_certificate: Path | None = None
    tls_own_key: Path | None = None
    token: SecretStr | None = None
    insecure: bool = False
    triton_key: SecretStr | None = None
    traces: str = ""

    @property
    def frame_limits(self) -> FrameLimits:
        return FrameLimits(self.max_side_px, self.max_pixels, self.max_request_bytes)

    @property
    def max_message_bytes(self) -> int:
        """Longest gRPC message: a frame and what comes with it."""
        return self.max_request_bytes + ENVELOPE_BYTES
