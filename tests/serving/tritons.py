"""Stand-ins for Tritons that serve no network: what they say they serve is up to the test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from nuclei.inference.graph import graph_name, with_views
from nuclei.inference.model_config import CONFIG_FILE, read_model_config
from nuclei.inference.routing import Routing
from serving.repository.configuration import plain_config

# That a U-Net returns.
MAPS = 3
Context = grpc.aio.ServicerContext[object, object]


class StandIn(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """One Triton; every model that it has is ready, and finds no nuclei.

    Attributes:
        address: of its gRPC API.
        versions: of `unet`, that it has.
        routing: what `unet` means; None without that name, text that is none for one that cannot be
            read.
        silent: whether it leaves questions about what it serves without an answer.
        asked: how often it was asked that.
        inferred: names of the graphs that have answered a tile; empty for one that failed.
        refused: how many tiles it was asked for by a graph that it lacks.
        full: what it says when it is to load a model; empty for one that loads what it is told to.
        broken: whether its models fail.
        dies: whether it ends instead of answering a tile.
        takes_s: time that a tile takes, seconds.
    """

    def __init__(self, repository: Path, shipped: int, versions: set[int]) -> None:
        """Args: repository: with the configurations of the shipped version."""
        self.address = ""
        self.versions = versions
        self.routing: Routing | str | None = Routing(max(versions))
        self.silent = False
        self.asked = 0
        self.inferred: list[str] = []
        self.refused = 0
        self.full = ""
        self.broken = False
        self.dies = False
        self.takes_s = 0.0
        self._configs = {
            tta: read_model_config(repository / graph_name("unet", shipped, tta=tta) / CONFIG_FILE)
            for tta in (False, True)
        }

    @asynccontextmanager
    async def running(self, address: str = "127.0.0.1:0") -> AsyncIterator["StandIn"]:
        """Args: address: to listen on, host:port; port 0 for any."""
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, server)
        port = server.add_insecure_port(address)
        self.address = f"{address.rpartition(':')[0]}:{port}"
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)

    async def ServerLive(self, request: object, context: Context) -> pb.ServerLiveResponse:  # noqa: N802
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: object, context: Context) -> pb.ServerReadyResponse:  # noqa: N802
        """Not while it unloads a model, as NVIDIA's container has it."""
        return pb.ServerReadyResponse(ready=False)

    async def ModelReady(  # noqa: N802
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=request.name in self._names())

    async def RepositoryIndex(  # noqa: N802
        self, request: object, context: Context
    ) -> pb.RepositoryIndexResponse:
        kind = pb.RepositoryIndexResponse.ModelIndex
        ready = [kind(name=name, version="1", state="READY") for name in self._names()]
        return pb.RepositoryIndexResponse(models=ready)

    async def ModelConfig(  # noqa: N802
        self, request: pb.ModelConfigRequest, context: Context
    ) -> pb.ModelConfigResponse:
        if self.silent:
            await asyncio.sleep(60)
        if request.name not in self._names():
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model '{request.name}'")
        config = self._configs[request.name.endswith("_tta")]
        if "." in request.name:
            return pb.ModelConfigResponse(config=config)
        routing = self.routing if isinstance(self.routing, Routing) else Routing(1)
        plain = plain_config(request.name, config, routing)
        if isinstance(self.routing, str):
            plain.parameters["routing"].string_value = self.routing
        return pb.ModelConfigResponse(config=plain)

    async def RepositoryModelLoad(  # noqa: N802
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        if self.full:
            await context.abort(grpc.StatusCode.INTERNAL, self.full)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        return pb.RepositoryModelUnloadResponse()

    async def ModelStatistics(  # noqa: N802
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        self.asked += 1
        if self.silent:
            await asyncio.sleep(60)
        stats = [pb.ModelStatistics(name=name) for name in self._names()]
        return pb.ModelStatisticsResponse(model_stats=stats)

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        return pb.ModelMetadataResponse(name=request.name, platform="ensemble")

    async def ModelInfer(  # noqa: N802
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        if request.model_name not in self._names():
            self.refused += 1
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model '{request.model_name}'")
        if self.broken:
            self.inferred.append("")
            await context.abort(grpc.StatusCode.INTERNAL, "it is broken")
        if self.dies:
            self.inferred.append("")
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        await asyncio.sleep(self.takes_s)
        self.inferred.append(request.model_name)
        height, width, _ = request.inputs[0].shape
        shape = [1, MAPS, height, width]
        tensor = pb.ModelInferResponse.InferOutputTensor(name="MAPS", datatype="UINT8", shape=shape)
        nothing = bytes(MAPS * height * width)
        return pb.ModelInferResponse(
            model_name=request.model_name, outputs=[tensor], raw_output_contents=[nothing]
        )

    def _names(self) -> set[str]:
        graphs = [graph_name("unet", version) for version in self.versions]
        models = [*graphs, "unet"] if self.routing else graphs
        return {with_views(model, tta) for model in models for tta in (False, True)}
