"""How clients reach several gateways behind one name, which a real name server knows."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import grpc
import pytest

from nuclei.client import AsyncClient, Client
from nuclei.errors import EngineUnavailable
from nuclei.process.ports import free_ports
from nuclei.v1 import segmentation_pb2 as pb
from tests.nuclei.client.name_server import NameServer

FIRST, SECOND, THIRD = (f"127.0.0.{number}" for number in (2, 3, 4))


@contextmanager
def gateway(host: str, port: int) -> Iterator[None]:
    """One that answers with its own host as the version of its software."""
    answer = pb.GetServerInfoResponse(server_version=host)
    handler = grpc.unary_unary_rpc_method_handler(
        lambda request, context: answer,
        request_deserializer=pb.GetServerInfoRequest.FromString,
        response_serializer=pb.GetServerInfoResponse.SerializeToString,
    )
    service = pb.DESCRIPTOR.services_by_name["Segmentation"].full_name
    handlers = grpc.method_handlers_generic_handler(service, {"GetServerInfo": handler})
    with ThreadPoolExecutor(2) as executor:
        server = grpc.server(executor)
        server.add_generic_rpc_handlers((handlers,))
        server.add_insecure_port(f"{host}:{port}")
        server.start()
        try:
            yield
        finally:
            server.stop(None).wait()


@pytest.fixture
def port() -> int:
    (free,) = free_ports(1)
    return free


@pytest.fixture
def names() -> Iterator[NameServer]:
    with NameServer([FIRST, SECOND]) as server:
        yield server


def answers(client: Client, count: int) -> Counter[str]:
    """Who answers the next calls."""
    return Counter(client.server_info().server_version for _ in range(count))


def test_calls_go_in_turn_to_all_gateways_behind_a_name(names: NameServer, port: int) -> None:
    with ExitStack() as ending, gateway(SECOND, port):
        ending.enter_context(gateway(FIRST, port))
        with Client(f"dns://127.0.0.1:{names.port}/gateways.test:{port}") as client:
            wait_for(client, FIRST, SECOND)
            assert answers(client, 40) == {FIRST: 20, SECOND: 20}
            # One ends and another comes.
            with gateway(THIRD, port):
                names.hosts = [SECOND, THIRD]
                ending.close()
                wait_for(client, SECOND, THIRD)
                assert answers(client, 40) == {SECOND: 20, THIRD: 20}


async def test_the_asynchronous_client_does_so_too(names: NameServer, port: int) -> None:
    with gateway(FIRST, port), gateway(SECOND, port):
        async with AsyncClient(f"dns://127.0.0.1:{names.port}/gateways.test:{port}") as client:
            answered: set[str] = set()
            deadline = time.monotonic() + 10
            while answered != {FIRST, SECOND}:
                assert time.monotonic() < deadline, answered
                answered.add((await client.server_info()).server_version)


def wait_for(client: Client, *hosts: str) -> None:
    """Call until just these have answered: the first connection that stands is used at once."""
    deadline = time.monotonic() + 15
    found: set[str] = set()
    while found != set(hosts):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
        with suppress(EngineUnavailable):  # of the calls that one which ends has
            found = set(answers(client, 4))
