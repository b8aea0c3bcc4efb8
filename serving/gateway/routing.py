"""Which model version answers a frame: the table of what Triton serves, kept up to date."""

import asyncio
import hashlib
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nuclei.errors import EngineFailed, EngineUnavailable, ModelNotFound, NucleiError
from nuclei.inference.engine import ServedVersion
from nuclei.inference.routing import Routing
from serving.engine import TritonEngine
from serving.gateway import metrics
from serving.gateway.bounds import Bounds
from serving.gateway.observation import only_known_errors
from serving.gateway.trial import Trial
from serving.logs import Event
from serving.rollout_report import (
    MAX_PICTURES,
    MAX_PICTURES_IN_ALL,
    ModelRollout,
)

logger = logging.getLogger(__name__)

POLL_S = 0.5

Failure = EngineFailed | EngineUnavailable


@dataclass(frozen=True)
class ServedModel:
    """A model that callers can ask for.

    Attributes:
        name: by which they ask.
        champion: the version that the name means.
        versions: all versions in use, by number; each is ready on at least one Triton.
        tta: whether the champion's graph with test-time augmentation is ready too.
        routing: the champion, and a challenger's share of the frames.
        precision: in which the champion's networks compute on Triton's processor, `bf16` or `fp32`;
            empty when unknown.
    """

    name: str
    champion: ServedVersion
    versions: Mapping[int, ServedVersion]
    tta: bool
    routing: Routing
    precision: str


@dataclass(frozen=True)
class Route:
    """Which version answers one frame.

    Attributes:
        champion: answers, or takes over when the challenger fails; the version that was asked for
            where there was one.
        trial: the trial that the frame takes part in; None without a challenger, and for a frame
            whose caller asks for a version.
        canary: whether the challenger of the trial answers.
        shadow: whether the challenger is to segment the frame as well, after the answer.
    """

    champion: ServedVersion
    trial: Trial | None = None
    canary: bool = False
    shadow: bool = False

    @property
    def served(self) -> ServedVersion:
        """The version that is to answer."""
        return self.trial.challenger if self.trial is not None and self.canary else self.champion


@dataclass(frozen=True)
class _Table:
    """Models by name, and those that a Triton serves but that cannot be used, with the reason."""

    models: Mapping[str, ServedModel] = field(default_factory=dict)
    failures: Mapping[str, Failure] = field(default_factory=dict)


class Router:
    """Says which version answers a frame.

    A version comes into use once every Triton that answers has it ready, so that all of them share
    its tiles from the start; and it stays as long as one has it, so that a Triton that joins, or
    starts again with less, takes nothing away. While Tritons disagree about the champion, the one
    of before stays. Where there is none of before, as in a gateway that has just started, and they
    have none in common, that of most of them answers, on those that have it. The table is replaced
    as a whole: a frame that has asked once keeps its answer.
    """

    def __init__(self, engine: TritonEngine, bounds: Bounds) -> None:
        """Start with an empty table; `watch` or the first question fills it.

        Args:
            engine: knows what the Tritons serve.
            bounds: within which challengers are to stay.
        """
        self._engine = engine
        self._bounds = bounds
        self._trials: dict[str, Trial] = {}
        self._table = _Table()
        self._contracts: dict[str, ServedVersion] = {}
        self._graphs: frozenset[str] = frozenset()
        self._refreshing = asyncio.Lock()
        # How often Triton was asked, and which of these times it answered last.
        self._asked = self._answered = 0

    async def find(self, model: str, version: int | None = None) -> ServedVersion:
        """The version that answers a frame.

        Args:
            model: its name.
            version: the one that a caller asks for; None for the one that the name means.

        Raises:
            ModelNotFound: Triton does not serve it.
            EngineUnavailable: no Triton can be reached, or none has answered yet, or no version of
                it is ready yet.
            EngineFailed: its configuration cannot be read.
        """
        if self._answer(model, version) is None or not self._engine.is_reachable:
            # It may have been loaded, or have come back, a moment ago.
            await self.refresh()
        answer = self._answer(model, version)
        if answer is None:
            raise self._missing(model, version)
        return answer

    async def route(self, model: str, version: int | None = None, key: str = "") -> Route:
        """The version that answers a frame, and whether a challenger takes part.

        Args:
            model, version: as for `find`, which says what is raised.
            key: the same for all frames that one version is to answer, such as those of an
                acquisition.
        """
        champion = await self.find(model, version)
        trial = self._trials.get(model)
        table = self._table.models.get(model)
        if version is not None or trial is None or table is None or not trial.running:
            return Route(champion)
        routing = table.routing
        if routing.challenger not in table.versions:
            return Route(champion)
        if place_of(key, trial.challenger) < routing.canary:
            return Route(champion, trial, canary=True)
        return Route(champion, trial, shadow=random.random() < routing.shadow)

    def rollouts(self) -> list[ModelRollout]:
        """What was found out about each challenger that is on trial, by name of the model."""
        pictures = min(MAX_PICTURES, MAX_PICTURES_IN_ALL // max(1, len(self._trials)))
        return [
            trial.report(self._table.models[name].routing, pictures)
            for name, trial in sorted(self._trials.items())
            if name in self._table.models
        ]

    async def models(self) -> list[ServedModel]:
        """The models served now, by name; raises EngineUnavailable when Triton does not answer."""
        await self.refresh()
        return [self._table.models[name] for name in sorted(self._table.models)]

    async def watch(self) -> None:
        """Keep the table up to date as long as it runs."""
        while True:
            try:
                with only_known_errors():
                    await self.refresh()
            except EngineUnavailable:
                pass  # readiness and every frame say so
            except NucleiError as error:
                logger.error(Event("routing", detail=str(error)))
            await asyncio.sleep(POLL_S)

    async def refresh(self) -> None:
        """Ask every Triton what it serves, once for all who wait for the same.

        Raises:
            EngineUnavailable: none answers; the table stays as it is.
            EngineFailed: none says what it serves; likewise.
        """
        before = self._asked
        async with self._refreshing:
            if self._answered > before:
                return
            self._asked += 1
            await self._refresh()
            self._answered = self._asked

    async def _refresh(self) -> None:
        try:
            catalogues = await self._engine.catalogues()
        finally:
            metrics.TRITONS.set(self._engine.servers)
            metrics.TRITONS_ANSWERING.set(self._engine.servers_answering)
        everywhere = frozenset.intersection(*(each.graphs for each in catalogues))
        somewhere = frozenset.union(*(each.graphs for each in catalogues))
        graphs = everywhere | somewhere & self._graphs
        # A graph that is gone may come back as another.
        contracts = {g: v for g, v in self._contracts.items() if g in graphs}
        self._contracts = contracts
        unreadable = {name: why for each in catalogues for name, why in each.failures.items()}
        known = [frozenset(each.routings.keys() | each.failures.keys()) for each in catalogues]
        names = frozenset.union(*known)
        models: dict[str, ServedModel] = {}
        failures: dict[str, Failure] = {**unreadable}
        for name in names:
            wanted = [each.routings[name] for each in catalogues if name in each.routings]
            try:
                model = await self._model(name, graphs, wanted)
                if model is None and (model := await self._model(name, somewhere, wanted)):
                    # In use from now on, as if all had it.
                    graphs |= _graphs_of(model) & somewhere
            except EngineFailed as error:
                failures[name] = error
            else:
                if model is not None:
                    models[name] = model
        for name in names - models.keys() - failures.keys():
            failures[name] = EngineUnavailable(
                f"no version of '{name}' is ready yet; send again once the service is ready"
            )
        self._graphs = graphs
        self._log_changes(models, failures)
        self._table = _Table(models, failures)
        metrics.note_champions({name: model.routing.champion for name, model in models.items()})
        self._hold_trials()

    async def _model(
        self, name: str, graphs: frozenset[str], wanted: Sequence[Routing]
    ) -> ServedModel | None:
        """A model as far as it is made of these graphs; None where no champion is."""
        versions, failure = {}, None
        for graph in graphs:
            number = graph.removeprefix(f"{name}.")
            if number == graph or not number.isdecimal():
                continue
            try:
                versions[int(number)] = await self._served(name, graph)
            except ModelNotFound:
                pass  # unloaded meanwhile
            except EngineFailed as error:
                failure = error
        routing = self._agreed(name, wanted, versions)
        if routing is None and failure is not None:
            raise failure
        if routing is None:
            return None
        champion = versions[routing.champion]
        tta = champion.graph_for(tta=True) in graphs
        precision = self._engine.precision(champion)
        return ServedModel(name, champion, versions, tta, routing, precision)

    def _agreed(
        self, name: str, wanted: Sequence[Routing], versions: Mapping[int, ServedVersion]
    ) -> Routing | None:
        """The routing of all Tritons; while they disagree or load, that of before if it can be."""
        usable = [routing for routing in wanted if routing.champion in versions]
        if len(set(wanted)) == 1 and usable:
            return usable[0]
        if name in self._table.models:
            before = self._table.models[name].routing
            if before.champion in versions:
                return before
        return max(usable, key=lambda each: (wanted.count(each), each.champion), default=None)

    def _hold_trials(self) -> None:
        """Begin the trials of new challengers, and end those that the routing no longer names."""
        # What was found out outlives a Triton that starts again and does not yet serve the model.
        trials = {n: trial for n, trial in self._trials.items() if n not in self._table.models}
        for name, model in self._table.models.items():
            trial = self._trials.get(name)
            if (number := model.routing.challenger) is None:
                continue
            if trial is not None and trial.is_of(model.champion, number):
                trials[name] = trial
            elif number in model.versions and number != model.routing.champion:
                challenger = model.versions[number]
                trials[name] = Trial(model.champion, challenger, self._bounds)
        for name, trial in self._trials.items():
            trial.over = trials.get(name) is not trial
        self._trials = trials

    async def _served(self, name: str, graph: str) -> ServedVersion:
        if graph not in self._contracts:
            version = graph.removeprefix(f"{name}.")
            contract = await self._engine.contract(graph)
            self._contracts[graph] = ServedVersion(name, version, graph, contract)
        return self._contracts[graph]

    def _answer(self, model: str, version: int | None) -> ServedVersion | None:
        if model not in self._table.models:
            return None
        served = self._table.models[model]
        return served.champion if version is None else served.versions.get(version)

    def _missing(self, model: str, version: int | None) -> NucleiError:
        if model in self._table.failures:
            return self._table.failures[model]
        if not self._table.models and not self._table.failures:
            return EngineUnavailable(
                "the inference server has no model yet; send again once the service is ready"
            )
        if model not in self._table.models:
            return ModelNotFound(
                f"there is no model '{model}'; ask for one that GetServerInfo or /v1/models lists"
            )
        loaded = ", ".join(map(str, sorted(self._table.models[model].versions)))
        return ModelNotFound(
            f"version {version} of '{model}' is not loaded; loaded are: {loaded}. Ask for one of "
            "them, or for none to have the one that is in use"
        )

    def _log_changes(
        self, models: Mapping[str, ServedModel], failures: Mapping[str, Failure]
    ) -> None:
        for name, error in failures.items():
            if str(error) != str(self._table.failures.get(name)):
                level = logging.ERROR if isinstance(error, EngineFailed) else logging.WARNING
                logger.log(level, Event("routing", model=name, detail=str(error)))
        for name, model in models.items():
            before = self._table.models.get(name)
            if before is None or before.routing != model.routing:
                routing = model.routing
                challenger = routing.challenger or ""
                logger.info(
                    Event("routing", model=name, champion=routing.champion, challenger=challenger)
                )


def _graphs_of(model: ServedModel) -> frozenset[str]:
    return frozenset(
        version.graph_for(tta) for version in model.versions.values() for tta in (False, True)
    )


def place_of(key: str, challenger: ServedVersion) -> float:
    """Where a key lies among all keys, 0 to 1: the same in every gateway, another per version."""
    salt = f"{challenger.model}.{challenger.version}".encode()
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=salt[:64]).digest()
    return int.from_bytes(digest) / 2**64
