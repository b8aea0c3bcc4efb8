"""gRPC calls whose callers do not do their part."""

import asyncio

import grpc

from nuclei.process.ports import LOOPBACK, free_ports
from serving.gateway.arrivals import Arrivals
from serving.gateway.grpc_call import Call, handler

ANSWER = bytes(64 * 2**20)
# What a caller takes unread, however fast its line seems to be.
NARROW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 2**16))


async def test_a_caller_that_never_takes_its_answer_is_disconnected() -> None:
    (port,) = free_ports(1)

    async def method(call: Call) -> None:
        await call.write_only(ANSWER, timeout_s=0.3)

    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
    handlers = {"Method": handler(method, Arrivals(port))}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Service", handlers),))
    server.add_insecure_port(f"{LOOPBACK}:{port}")
    await server.start()
    async with grpc.aio.insecure_channel(f"{LOOPBACK}:{port}", options=NARROW) as channel:
        call = channel.stream_stream("/Service/Method")()
        async with asyncio.timeout(5):
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
    await server.stop(0)
