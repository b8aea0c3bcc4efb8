"""Keeps one Triton as the registry says: fetch, check, export, load, prove, switch, retire.

Each round compares what the registry wants with what is there and does what is missing, one step
after the other. Every step can be done again, so a process that is killed anywhere goes on where it
was with its next round.
"""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from nuclei.errors import (
    DeadlineExceeded,
    EngineFailed,
    EngineUnavailable,
    InvalidData,
    ModelNotFound,
    NucleiError,
    Overloaded,
    RegistryUnavailable,
)
from nuclei.inference.routing import Routing
from nuclei.quoting import sentence
from serving.logs import Event
from serving.promotion import metrics
from serving.promotion.changes import refuse, report_status
from serving.promotion.servers import Server
from serving.promotion.state import ModelState, Rollout, SyncStatus, VersionState
from serving.promotion.store import Store
from serving.promotion.synced import SyncedRepository
from serving.registry import RegisteredVersion, Registry

logger = logging.getLogger(__name__)

# A status counts as live three times as long.
STATUS_S = 30.0
# Of loading a version that Triton fails on; the wait between two doubles.
MAX_ATTEMPTS = 4
RETRY_S = 10.0
# A version that is asked for by its number all the time is unloaded in the end, too.
_LONGEST_RETIREMENTS = 10
# Of the server, whose reason may be the version or not.
_FAILURES = (EngineFailed, EngineUnavailable, ModelNotFound, DeadlineExceeded, Overloaded)


@dataclass(frozen=True)
class _Retry:
    """A version that could not be loaded.

    Attributes:
        at_s: when it is tried again, on the monotonic clock.
        why: what happened.
    """

    at_s: float
    why: str


class ModelSync:
    """Keeps the versions of one registered model as the registry says."""

    def __init__(
        self,
        model: str,
        registry: Registry,
        store: Store,
        repository: SyncedRepository,
        server: Server,
        instance: str,
        judges: bool,
        retire_s: float,
    ) -> None:
        """Describe it; nothing is done yet.

        Args:
            model: name of the registered model.
            registry: in which it is registered.
            store: for what is downloaded.
            repository: that the server serves.
            server: loads and answers.
            instance: name of this process in the registry; "" writes no status.
            judges: whether it knows gateways that report about rollouts.
            retire_s: seconds that a version which is no longer wanted stays loaded.
        """
        self.model = model
        self._registry, self._store = registry, store
        self._repository, self._server = repository, server
        self._instance, self._judges, self._retire_s = instance, judges, retire_s
        self._proven: set[tuple[int, str]] = set()
        self._retries: dict[int, _Retry] = {}
        self._loaded_since: dict[int, datetime] = {}
        self._unwanted_since: dict[int, float] = {}
        self._reported: SyncStatus | None = None
        self._problem = ""

    def round(self, state: ModelState) -> None:
        """Do what is missing.

        Args:
            state: of the model, just read.

        Raises:
            RegistryUnavailable: the registry or its store does not answer.
            EngineUnavailable: Triton does not.
            EngineFailed: it cannot load a version, which is tried again later.
            OSError: a version cannot be written.
        """
        self._count_versions(state)
        self._drop([entry.version for entry in state.versions if entry.refused is not None])
        usable: list[int] = []
        failures: list[Exception] = []
        for version in _wanted(state):
            try:
                if self._bring(state.find(version)):
                    usable.append(version)
            # Of one version: the other may be here already.
            except (RegistryUnavailable, EngineFailed, OSError) as error:
                failures.append(error)
        self._switch(state, usable)
        self._retire(state)
        self._report(state)
        if failures:
            raise failures[0]

    def _count_versions(self, state: ModelState) -> None:
        verdicts = Counter(
            entry.gates.verdict if entry.gates is not None else "none" for entry in state.versions
        )
        for verdict in ("passed", "refused", "none"):
            metrics.REGISTERED.labels(self.model, verdict).set(verdicts[verdict])

    def _bring(self, entry: VersionState) -> bool:
        """Let a version be loaded and proven; whether it is."""
        version = entry.version
        if self._serves(entry):
            return True
        if entry.refused is not None:
            return False
        if entry.admitted is None:
            self._say(
                f"version {version} has not passed the gates and is not served; run "
                f"`nuclei gate {version} --model {self.model}`"
            )
            return False
        if (retry := self._retries.get(version)) is not None and time.monotonic() < retry.at_s:
            raise EngineFailed(retry.why)
        # A Triton that is down already did not end because of this version.
        self._server.check_answers()
        try:
            self._load(version, entry.registered, entry.admitted)
        except InvalidData as error:
            self._refuse(version, str(error))
            return False
        except _FAILURES as error:
            self._note_failure(version, error)
            raise
        self._retries.pop(version, None)
        if self._store.attempts(version):
            self._store.note_attempts(version, 0)
        return True

    def _serves(self, entry: VersionState) -> bool:
        """Whether the server answers with this version already.

        The champion needs no new proof when this process starts: it serves.
        """
        version, family = entry.version, self._repository.family_of(self.model)
        digest = family and self._repository.digest(family, version)
        if not family or not digest or entry.admitted not in (digest, None):
            return False
        if version not in self._server.loaded(family):
            return False
        return self._is_champion(family, version) or (version, digest) in self._proven

    def _load(self, version: int, registered: RegisteredVersion, admitted: str) -> None:
        started = time.monotonic()
        stored = self._store.fetch(self._registry, registered, admitted)
        if admitted != stored.digest:
            raise InvalidData(
                f"its files have the digest {stored.digest}, the gates judged {admitted}; run them "
                "again"
            )
        fetched = time.monotonic()
        family = self._repository.add(stored, self.model, version)
        self._server.load(family, version)
        loaded = time.monotonic()
        if (version, stored.digest) in self._proven:
            return
        self._server.prove(family, version, stored)
        self._proven.add((version, stored.digest))
        self._log(
            "proven",
            version,
            fetched_s=fetched - started,
            loaded_s=loaded - fetched,
            proven_s=time.monotonic() - loaded,
        )

    def _refuse(self, version: int, reason: str) -> None:
        refuse(self._registry, self.model, version, reason)
        metrics.REFUSED.labels(self.model).inc()
        logger.error(Event("refused", model=self.model, version=version, why=sentence(reason)))
        self._retries.pop(version, None)
        self._drop([version])

    def _note_failure(self, version: int, error: NucleiError) -> None:
        """Take back a version that the server failed on, to be tried again later.

        It may have lacked memory for a moment, or ended for a reason of its own. So a version is
        refused only when it failed again and again on a server that works without it.
        """
        family = self._repository.family_of(self.model)
        if family is None or self._is_champion(family, version):
            return
        # A server that ended would load it again when it restarts.
        self._repository.remove(family, version)
        ended = isinstance(error, EngineUnavailable)
        if not ended:
            self._server.unload(family, version)
        attempts = self._store.attempts(version)
        if ended or self._server.works():
            attempts += 1
            self._store.note_attempts(version, attempts)
        if attempts >= MAX_ATTEMPTS:
            self._refuse(version, f"Triton failed on it {attempts} times; the last time: {error}")
            return
        wait_s = RETRY_S * 2 ** max(0, attempts - 1)
        why = (
            f"version {version} could not be loaded, {attempts} of {MAX_ATTEMPTS} attempts failed, "
            f"the next is {wait_s:.0f} s after the last ({error})"
        )
        self._retries[version] = _Retry(time.monotonic() + wait_s, why)

    def _drop(self, refused: Sequence[int]) -> None:
        """Unload and remove refused versions, unless one is what is served now."""
        family = self._repository.family_of(self.model)
        there: set[int] = set()
        if family is not None and refused:
            there = {*self._server.loaded(family), *self._repository.versions(family)}
        for version in refused:
            if family is not None and self._is_champion(family, version):
                continue
            if family is not None and version in there:
                self._server.unload(family, version)
                self._repository.remove(family, version)
            self._store.discard(version)

    def _is_champion(self, family: str, version: int) -> bool:
        routing = self._repository.routing(family)
        return routing is not None and routing.champion == version

    def _switch(self, state: ModelState, usable: list[int]) -> None:
        """Let the plain name mean the champion; the one of before where it cannot serve."""
        family = self._repository.family_of(self.model)
        if family is None:
            return
        before = self._repository.routing(family)
        champion = before.champion if before else None
        if state.champion in usable:
            champion = state.champion
        if champion is None:
            return
        routing = _routing(champion, state, usable)
        self._repository.route(family, routing)
        self._server.route(family, routing)
        metrics.CHAMPION.labels(self.model).set(champion)
        if before is None or before.champion != champion:
            metrics.SWITCHES.labels(self.model).inc()
            self._log("switched", champion)

    def _retire(self, state: ModelState) -> None:
        """Unload and remove what nobody wants any more, once its frames are done everywhere."""
        family = self._repository.family_of(self.model)
        routing = family and self._repository.routing(family)
        if not family or not routing:
            return
        former = state.former_champions()[:1]
        keep = {routing.champion, *_wanted(state), *former}
        there = {*self._server.loaded(family), *self._repository.versions(family)}
        for version in self._unwanted_since.keys() - (there - keep):
            del self._unwanted_since[version]
        for version in sorted(there - keep):
            since = self._unwanted_since.setdefault(version, time.monotonic())
            if self._everybody_has(routing.champion, state) and self._is_over(
                family, version, time.monotonic() - since
            ):
                self._server.unload(family, version)
                self._repository.remove(family, version)
                self._log("retired", version)
        self._store.trim(keep)
        metrics.STORED_BYTES.labels(self.model).set(self._store.bytes())

    def _is_over(self, family: str, version: int, unwanted_s: float) -> bool:
        if unwanted_s < self._retire_s:
            return False
        idle = self._server.idle_s(family, version) >= self._retire_s
        return idle or unwanted_s >= _LONGEST_RETIREMENTS * self._retire_s

    def _everybody_has(self, champion: int, state: ModelState) -> bool:
        others = state.live_syncs(datetime.now(UTC))
        others.pop(self._instance, None)
        return all(status.champion == champion for status in others.values())

    def _report(self, state: ModelState) -> None:
        """Say in the registry what is served here."""
        status = self._status()
        metrics.LOADED.labels(self.model).set(len(status.loaded))
        if not self._instance:
            return
        last = self._reported
        if last is None or (last.loaded, last.champion) != (status.loaded, status.champion):
            changed = True
        else:
            changed = (status.at - last.at).total_seconds() >= STATUS_S
        if changed:
            report_status(self._registry, state, self._instance, status)
            self._reported = status

    def _status(self) -> SyncStatus:
        now = datetime.now(UTC)
        family = self._repository.family_of(self.model)
        loaded = self._server.loaded(family) if family else []
        self._loaded_since = {each: self._loaded_since.get(each, now) for each in loaded}
        routing = self._repository.routing(family) if family else None
        champion = routing.champion if routing else None
        return SyncStatus(
            loaded=dict(self._loaded_since), champion=champion, judges=self._judges, at=now
        )

    def _say(self, problem: str) -> None:
        """Log a problem once."""
        if problem != self._problem:
            self._problem = problem
            logger.warning(Event("not_served", model=self.model, why=problem))

    def _log(self, event: str, version: int, **seconds: float) -> None:
        rounded = {name: round(value, 1) for name, value in seconds.items()}
        logger.info(Event(event, model=self.model, version=version, **rounded))


def _wanted(state: ModelState) -> list[int]:
    """The versions that are to be loaded: the champion, then the challenger of a rollout."""
    rollout = _rollout(state)
    wanted = [state.champion, rollout.version if rollout else None]
    return [version for version in dict.fromkeys(wanted) if version is not None]


def _rollout(state: ModelState) -> Rollout | None:
    """The rollout under way, when its tag and the alias agree."""
    rollout = state.rollout
    return rollout if rollout is not None and rollout.version == state.challenger else None


def _routing(champion: int, state: ModelState, usable: list[int]) -> Routing:
    rollout = _rollout(state)
    if rollout is None or rollout.version not in usable or rollout.version == champion:
        return Routing(champion)
    share = {rollout.current.mode: rollout.current.fraction}
    return Routing(champion, rollout.version, share.get("shadow", 0.0), share.get("canary", 0.0))
