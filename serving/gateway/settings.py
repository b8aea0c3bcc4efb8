"""Settings of the gateway process, read once from the environment (`NUCLEI_...`)."""

import os

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from nuclei.images import FrameLimits
from serving.ports import LOOPBACK

# What a request may hold besides the frame itself.
ENVELOPE_BYTES = 2**20


class GatewaySettings(BaseSettings):
    """Settings of the gateway; `NUCLEI_GRPC_PORT=6000` sets `grpc_port`.

    Attributes:
        triton_address: host:port of Triton's gRPC endpoint.
        triton_concurrency: most inferences of one worker in flight at once.
        host: address on which HTTP and gRPC listen.
        http_port: port of the HTTP server.
        grpc_port: port of the gRPC server.
        threads: threads that decode, post-process and encode.
        default_model: model of a request that names none.
        ready_graphs: the service is ready when Triton serves all of these.
        max_side_px: longest side of a frame.
        max_pixels: most pixels of a frame.
        max_request_bytes: longest encoded or raw frame.
        max_frames_in_flight: most frames held at once, waiting or in work.
        max_bytes_in_flight: most memory for those frames, as estimated from their sizes.
        max_frames_in_work: most frames worked on at once; the others wait for their turn.
        default_timeout_s: time of a request without a deadline of its own, seconds.
        drain_s: time that running requests get to finish after SIGTERM, seconds.
    """

    model_config = SettingsConfigDict(env_prefix="NUCLEI_", frozen=True)

    triton_address: str = "127.0.0.1:8001"
    triton_concurrency: int = Field(default=8, ge=1)
    host: str = LOOPBACK
    http_port: int = Field(default=3000, ge=1, le=65535)
    grpc_port: int = Field(default=50051, ge=1, le=65535)
    threads: int = Field(default=os.cpu_count() or 1, ge=1)
    default_model: str = "unet"
    ready_graphs: tuple[str, ...] = ("unet", "unet_tta")
    max_side_px: int = Field(default=16384, ge=1)
    max_pixels: int = Field(default=16384 * 16384, ge=1)
    max_request_bytes: int = Field(default=2**30, ge=1, le=2**31 - 1 - ENVELOPE_BYTES)
    max_frames_in_flight: int = Field(default=64, ge=1)
    max_bytes_in_flight: int = Field(default=3 * 2**30, ge=1)
    max_frames_in_work: int = Field(default=4, ge=1)
    default_timeout_s: float = Field(default=30.0, gt=0)
    drain_s: float = Field(default=10.0, ge=0)

    @property
    def frame_limits(self) -> FrameLimits:
        return FrameLimits(self.max_side_px, self.max_pixels, self.max_request_bytes)

    @property
    def max_message_bytes(self) -> int:
        """Longest gRPC message: a frame and what comes with it."""
        return self.max_request_bytes + ENVELOPE_BYTES
