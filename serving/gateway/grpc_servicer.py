"""The gRPC API at a glance: its three calls."""

import asyncio
from contextlib import ExitStack

import grpc

from nuclei.v1 import segmentation_pb2 as pb
from serving.gateway import grpc_call
from serving.gateway.admission import Permit
from serving.gateway.arrivals import Arrivals
from serving.gateway.data_plane import DataPlane
from serving.gateway.grpc_call import QUESTION_BYTES, QUESTION_S, Call, at_most
from serving.gateway.grpc_messages import FrameRequest, server_info_message
from serving.gateway.grpc_stream import StreamCall
from serving.gateway.observation import Observation, observed
from serving.gateway.settings import GatewaySettings
from serving.gateway.upload import UPLOAD_S, Upload

SERVICE = pb.DESCRIPTOR.services_by_name["Segmentation"].full_name


class GrpcServicer:
    """nuclei.v1.Segmentation.

    Every call is handled as a stream, which looks the same on the wire: a stream handler runs
    before a message is received, so that a refused call costs nothing, and it knows when an answer
    has been sent, so that it can hold the permit until then.
    """

    def __init__(
        self, data_plane: DataPlane, settings: GatewaySettings, arrivals: Arrivals
    ) -> None:
        self._data_plane = data_plane
        self._settings = settings
        self._arrivals = arrivals
        self._draining = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        """The handler of all three calls, to be added to a server."""
        methods = {
            "Segment": self._segment,
            "SegmentStream": self._segment_stream,
            "GetServerInfo": self._server_info,
        }
        handlers = {
            name: grpc_call.handler(method, self._arrivals) for name, method in methods.items()
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def begin_draining(self) -> None:
        """Let streams end once the frames that they have received are answered."""
        self._draining.set()

    async def _segment(self, call: Call) -> None:
        with ExitStack() as held:
            with observed("grpc", call.metadata) as observation:
                admission = self._data_plane.admission
                permit = held.enter_context(admission.admit(observation.protocol, call.caller))
                reply = await self._reply(call, observation, permit)
            permit.resize(min(permit.n_bytes, len(reply)))
            await call.write_only(reply, self._settings.reader_timeout_s)

    async def _segment_stream(self, call: Call) -> None:
        await StreamCall(call, self._data_plane, self._settings).run(self._draining)

    async def _server_info(self, call: Call) -> None:
        await call.read_only(pb.GetServerInfoRequest, at_most(QUESTION_BYTES), QUESTION_S)
        info = server_info_message(await self._data_plane.server_info())
        await call.write_only(info.SerializeToString(), self._settings.reader_timeout_s)

    async def _reply(self, call: Call, observation: Observation, permit: Permit) -> bytes:
        """The serialised reply; the request and its frame are released on return."""
        request = FrameRequest(
            await call.read_only(pb.SegmentRequest, Upload(permit).arrived, UPLOAD_S)
        )
        permit.resize(request.n_bytes)
        permit.place()
        observation.bytes_in = request.n_bytes
        reply = await self._data_plane.segment(
            request,
            request.options(call.deadline),
            request.encoding(request.reply),
            observation,
            permit,
        )
        observation.bytes_out = len(reply)
        return reply
