"""Which version answers, over a real Triton whose versions come and go."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from nuclei.errors import EngineFailed, EngineUnavailable, ModelNotFound
from nuclei.inference.contract import Contract
from nuclei.inference.deadline import Deadline
from nuclei.inference.engine import ServedVersion
from nuclei.inference.model_config import read_model_config
from nuclei.inference.routing import Routing
from serving.engine import TritonEngine
from serving.gateway.bounds import Bounds
from serving.gateway.routing import Router, place_of
from serving.repository.export import export_version, set_routing
from serving.triton.server import TritonServer
from tests.serving.tritons import StandIn
from tests.shipped import GRAPH, VERSION

MESSAGE_BYTES = 2**24
NEXT = VERSION + 1
TILE, RANGE = np.zeros((64, 64, 1), np.uint16), np.array([0, 255], np.float32)
BOUNDS = Bounds(error_rate=0.02, latency_ratio=2.0, agreement=0.5, frames=20)


@pytest.fixture
async def router(own_triton: TritonServer) -> AsyncIterator[Router]:
    engine = TritonEngine([own_triton.address], 2**18, MESSAGE_BYTES)
    yield Router(engine, BOUNDS)
    await engine.close()


@pytest.fixture
def control(own_triton: TritonServer) -> InferenceServerClient:
    return InferenceServerClient(own_triton.address)


async def test_a_name_means_what_its_routing_says(
    router: Router, control: InferenceServerClient, own_repository: Path, shipped_artifacts: Path
) -> None:
    first = await router.find("unet")
    assert (first.model, first.version, first.graph) == ("unet", str(VERSION), GRAPH)
    export_version(shipped_artifacts, own_repository, NEXT)
    with pytest.raises(
        ModelNotFound, match=f"version {NEXT} .* is not loaded; loaded are: {VERSION}"
    ):
        await router.find("unet", NEXT)

    for graph in (f"unet.{NEXT}", f"unet.{NEXT}_tta"):
        control.load_model(graph)
    # Loaded: it can be asked for, and the name still means the other.
    assert (await router.find("unet", NEXT)).graph == f"unet.{NEXT}"
    assert (await router.find("unet")).version == str(VERSION)

    for name in set_routing(own_repository, "unet", Routing(NEXT)):
        control.load_model(name)
    (model,) = await router.models()
    assert (model.champion.version, sorted(model.versions)) == (str(NEXT), [VERSION, NEXT])
    assert model.tta
    assert (await router.find("unet")).version == str(NEXT)

    control.unload_model(GRAPH, unload_dependents=True)
    await router.refresh()
    with pytest.raises(ModelNotFound, match=f"version {VERSION} of 'unet' is not loaded"):
        await router.find("unet", VERSION)


async def test_a_champion_that_is_not_loaded_does_not_answer(
    router: Router, control: InferenceServerClient, own_repository: Path, shipped_artifacts: Path
) -> None:
    assert (await router.find("unet")).version == str(VERSION)
    export_version(shipped_artifacts, own_repository, NEXT)
    for name in set_routing(own_repository, "unet", Routing(NEXT)):
        control.load_model(name)
    await router.refresh()
    assert (await router.find("unet")).version == str(VERSION)


async def test_an_unreadable_contract_is_not_the_callers_fault(
    router: Router, control: InferenceServerClient, own_repository: Path
) -> None:
    path = own_repository / GRAPH / "config.pbtxt"
    config = read_model_config(path)
    config.parameters["contract"].string_value = "{}"
    path.write_text(str(config))
    control.load_model(GRAPH)
    with pytest.raises(EngineFailed, match=re.escape(GRAPH)):
        await router.find("unet")


async def test_the_table_outlives_triton(router: Router, own_triton: TritonServer) -> None:
    assert (await router.find("unet")).version == str(VERSION)
    own_triton.stop()
    for ask in (router.refresh(), router.find("unet"), router.find("unet")):
        with pytest.raises(EngineUnavailable):
            await ask
    watching = asyncio.create_task(router.watch())
    own_triton.start()
    await asyncio.sleep(1)
    assert not watching.done()
    watching.cancel()
    assert (await router.find("unet")).version == str(VERSION)


@pytest.mark.parametrize("model", ["nosuch", "merge", GRAPH, "unet_tta"])
async def test_what_is_no_model_is_not_found(triton: TritonServer, model: str) -> None:
    engine = TritonEngine([triton.address], 2**18, MESSAGE_BYTES)
    with pytest.raises(ModelNotFound, match="there is no model"):
        await Router(engine, BOUNDS).find(model)
    await engine.close()


async def test_nothing_is_known_before_a_triton_answers() -> None:
    engine = TritonEngine(["127.0.0.1:1"], 2**18, MESSAGE_BYTES)
    with pytest.raises(EngineUnavailable):
        await Router(engine, BOUNDS).find("unet")
    await engine.close()


async def test_a_version_is_used_once_every_triton_has_it(
    own_triton: TritonServer, triton: TritonServer, own_repository: Path, shipped_artifacts: Path
) -> None:
    engine = TritonEngine([own_triton.address, triton.address], 2**18, MESSAGE_BYTES)
    router = Router(engine, BOUNDS)
    assert (await router.find("unet")).version == str(VERSION)
    export_version(shipped_artifacts, own_repository, NEXT)
    with InferenceServerClient(own_triton.address) as control:
        named = set_routing(own_repository, "unet", Routing(NEXT))
        for graph in (f"unet.{NEXT}", f"unet.{NEXT}_tta", *named):
            control.load_model(graph)
    await router.refresh()
    assert (await router.find("unet")).version == str(VERSION)
    with pytest.raises(ModelNotFound):
        await router.find("unet", NEXT)
    await engine.close()


@asynccontextmanager
async def routed(*tritons: StandIn) -> AsyncIterator[tuple[TritonEngine, Router]]:
    """A router in front of stand-ins."""
    async with AsyncExitStack() as stack:
        for triton in tritons:
            await stack.enter_async_context(triton.running())
        engine = TritonEngine([each.address for each in tritons], 2**18, MESSAGE_BYTES)
        yield engine, Router(engine, BOUNDS)
        await engine.close()


async def test_a_triton_that_joins_takes_no_version_away(repository: Path, version: str) -> None:
    shipped = int(version)
    old, joining = (StandIn(repository, shipped, {shipped + 4}) for _ in range(2))
    async with routed(old, joining) as (engine, router):
        assert (await router.find("unet")).version == str(shipped + 4)
        # It starts again with what is shipped, then with nothing.
        for versions, routing in (({shipped}, Routing(shipped)), (set(), None)):
            joining.versions, joining.routing = versions, routing
            await router.refresh()
            found = await router.find("unet")
            assert found.version == str(shipped + 4)
            await engine.infer(found.graph, (), TILE, RANGE, Deadline.after(10))
        # A version that it lacks is not used yet.
        old.versions, old.routing = {shipped + 4, shipped + 5}, Routing(shipped + 5)
        await router.refresh()
        assert (await router.find("unet")).version == str(shipped + 4)
        joining.versions, joining.routing = old.versions, old.routing
        await router.refresh()
        assert (await router.find("unet")).version == str(shipped + 5)
        for each in (old, joining):
            each.versions = {shipped + 5}
        await router.refresh()
        with pytest.raises(ModelNotFound, match=f"version {shipped + 4} of 'unet' is not loaded"):
            await router.find("unet", shipped + 4)


async def test_a_gateway_that_starts_among_tritons_that_have_no_version_in_common_answers(
    repository: Path, version: str
) -> None:
    """By the version of most of them, and only on those that have it."""
    shipped = int(version)
    old, new, newer = (StandIn(repository, shipped, {shipped + n}) for n in (0, 1, 1))
    async with routed(old, new, newer) as (engine, router):
        found = await router.find("unet")
        assert found.version == str(shipped + 1)
        for _ in range(4):
            await engine.infer(found.graph, (), TILE, RANGE, Deadline.after(10))
        assert (old.inferred, len(new.inferred), len(newer.inferred)) == ([], 2, 2)
        # One that has no model at all makes no difference, nor does a change of the majority.
        new.versions, new.routing = set(), None
        old.versions = {shipped, shipped + 1}
        await router.refresh()
        assert (await router.find("unet")).version == str(shipped + 1)


async def test_a_service_whose_tritons_have_no_version_yet_is_not_ready(
    repository: Path, version: str
) -> None:
    """Who asks now is to ask again: 503, where 404 would say that there is no such model."""
    shipped = int(version)
    first, second = (StandIn(repository, shipped, {shipped}) for _ in range(2))
    for each in (first, second):
        each.routing = Routing(shipped + 1)
    async with routed(first, second) as (_, router):
        with pytest.raises(EngineUnavailable, match="no version of 'unet' is ready yet"):
            await router.find("unet")
        with pytest.raises(ModelNotFound):
            await router.find("nosuch")
        for each in (first, second):
            each.versions, each.routing = set(), None
        with pytest.raises(EngineUnavailable, match="has no model yet"):
            await router.find("unet")
        second.versions, second.routing = {shipped}, Routing(shipped)
        assert (await router.find("unet")).version == version


async def test_tiles_go_where_their_version_is(repository: Path, version: str) -> None:
    """One that joins without it is not even asked, although it has the least to do."""
    shipped = int(version)
    first, second, joining = (StandIn(repository, shipped, {shipped}) for _ in range(3))
    joining.versions, joining.routing = {shipped + 1}, Routing(shipped + 1)
    async with routed(first, second, joining) as (engine, router):
        found = await router.find("unet")
        for _ in range(20):
            await engine.infer(found.graph, (), TILE, RANGE, Deadline.after(10))
        assert (len(first.inferred), len(second.inferred), joining.refused) == (10, 10, 0)


async def test_a_tile_that_is_lost_is_asked_again_once(repository: Path, version: str) -> None:
    """Elsewhere; but what two Tritons end over would end the third as well."""
    graph = f"unet.{version}"
    tritons = [StandIn(repository, int(version), {int(version)}) for _ in range(3)]
    for fault in ("dies", "broken"):
        async with routed(*tritons) as (engine, router):
            await router.refresh()
            setattr(tritons[0], fault, True)
            for _ in range(10):
                await engine.infer(graph, (), TILE, RANGE, Deadline.after(10))
            # It gets no more while others can take them.
            assert tritons[0].inferred.count("") == 1
            for each in tritons:
                setattr(each, fault, True)
                each.inferred.clear()
            with pytest.raises((EngineUnavailable, EngineFailed)):
                await engine.infer(graph, (), TILE, RANGE, Deadline.after(10))
            assert sum(len(each.inferred) for each in tritons) == 2
            for each in tritons:
                setattr(each, fault, False)
                each.inferred.clear()


async def test_a_triton_that_hangs_does_not_hold_up_what_others_say(
    repository: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering, hanging = (StandIn(repository, int(version), {int(version)}) for _ in range(2))
    async with routed(answering, hanging) as (engine, router):
        await router.refresh()
        hanging.silent = True
        monkeypatch.setattr("serving.engine.CONTROL_TIMEOUT_S", 0.5)
        await router.refresh()  # takes as long as one may take, this once
        monkeypatch.setattr("serving.engine.CONTROL_TIMEOUT_S", 30)
        answering.versions = hanging.versions = {int(version), int(version) + 1}
        async with asyncio.timeout(5):
            assert (await router.find("unet", int(version) + 1)).graph
        assert (engine.servers, engine.servers_answering) == (2, 1)


async def test_a_version_that_no_server_has_any_more_is_missing_though_one_does_not_answer(
    repository: Path, version: str
) -> None:
    shipped = int(version)
    triton = StandIn(repository, shipped, {shipped})
    async with triton.running():
        for addresses in ([triton.address, "127.0.0.1:1"], ["127.0.0.1:1", triton.address]):
            engine = TritonEngine(addresses, 2**18, MESSAGE_BYTES)
            with pytest.raises(ModelNotFound):
                await engine.infer("unet.9", (), TILE, RANGE, Deadline.after(10))
            with pytest.raises(ModelNotFound):
                await engine.contract("unet.9")
            await engine.close()


async def test_a_triton_that_hangs_does_not_count(
    repository: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.engine.CONTROL_TIMEOUT_S", 0.2)
    hanging, answering = (StandIn(repository, int(version), {int(version)}) for _ in range(2))
    hanging.silent = True
    async with routed(hanging, answering) as (_, router):
        assert (await router.find("unet")).version == version
    answering.silent = True
    async with routed(hanging, answering) as (_, router):
        with pytest.raises(EngineUnavailable):
            await router.find("unet")


async def test_an_unreadable_routing_leaves_the_champion_of_before(
    repository: Path, version: str
) -> None:
    triton = StandIn(repository, int(version), {int(version)})
    async with routed(triton) as (_, router):
        triton.routing = "{}"
        with pytest.raises(EngineFailed, match="the routing of a model cannot be used"):
            await router.find("unet")
        triton.routing = Routing(int(version))
        assert (await router.find("unet")).version == version
        triton.routing = "{}"
        await router.refresh()
        assert (await router.find("unet")).version == version


async def test_callers_who_ask_for_what_is_not_there_share_a_question(
    repository: Path, version: str
) -> None:
    triton = StandIn(repository, int(version), {int(version)})
    async with routed(triton) as (_, router):
        answers = await asyncio.gather(
            *(router.find("nosuch") for _ in range(50)), return_exceptions=True
        )
        assert {type(answer) for answer in answers} == {ModelNotFound}
        assert triton.asked <= 2


def test_each_challenger_is_shown_to_others() -> None:
    keys = [f"acquisition-{number}" for number in range(2000)]
    first, second = (
        {
            key
            for key in keys
            if place_of(key, ServedVersion("unet", version, "", Contract("unet"))) < 0.1
        }
        for version in ("4", "5")
    )
    assert 150 < len(first) < 250
    assert 150 < len(second) < 250
    assert len(first & second) < 60


def test_every_gateway_chooses_the_same_callers() -> None:
    """The number is part of what gateways of different releases agree on."""
    challenger = ServedVersion("unet", "4", "unet.4", Contract("unet"))
    assert place_of("acquisition-1", challenger) == pytest.approx(0.8471042781607365)
