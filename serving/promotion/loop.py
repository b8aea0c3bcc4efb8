"""Round after round: every model that is followed, on a clock and when a webhook says so."""

import logging
import math
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nuclei.errors import (
    ModelNotFound,
    NucleiError,
    OtherVersionServed,
    RegistryUnavailable,
)
from nuclei.names import is_name
from nuclei.process.backoff import Backoff
from nuclei.quoting import sentence
from nuclei.registry import CHAMPION, registered_name
from nuclei.whole_file import write_whole
from serving.logs import Event
from serving.promotion import metrics
from serving.promotion.adoption import adopt_served
from serving.promotion.rollouts import Rollouts
from serving.promotion.servers import Server, ThisProcess
from serving.promotion.settings import SyncSettings
from serving.promotion.state import ModelState, read_state
from serving.promotion.store import Store
from serving.promotion.sync import ModelSync
from serving.promotion.synced import SyncedRepository
from serving.promotion.trial import Gateways
from serving.registry import Registry
from serving.repository.listing import model_names

logger = logging.getLogger(__name__)

_PREFIX = "nuclei-"
# Of all models that a registry may name.
MAX_MODELS = 64
_LEAST_WAIT_S = 0.5


def prepare(settings: SyncSettings, registry: Registry) -> None:
    """Make the repository what the registry says, before Triton starts with it.

    What does not come from a registry, and has the name of what does, makes place for it.

    Raises:
        NucleiError: the registry does not answer, or a model cannot be prepared; what was done
            until then stays.
    """
    repository = SyncedRepository(settings.synced)
    followed = Followed(settings, registry, ThisProcess(repository), Gateways((), "", None))
    try:
        followed.round(alone=True)
    except OtherVersionServed:
        shutil.rmtree(repository.folder)
        followed.round(alone=True)


class Followed:
    """The models of a registry that one server follows."""

    def __init__(
        self, settings: SyncSettings, registry: Registry, server: Server, gateways: Gateways
    ) -> None:
        """Describe them; nothing is read yet.

        Args:
            settings: of this process.
            registry: whose champions are served.
            server: that serves them.
            gateways: whose reports decide about rollouts.
        """
        self._settings, self._registry = settings, registry
        self._server, self._gateways = server, gateways
        self._repository = SyncedRepository(settings.synced)
        self._syncs: dict[str, ModelSync] = {}
        self._rollouts: dict[str, Rollouts] = {}

    def round(self, alone: bool = False) -> bool:
        """Look at every model once, at all of them even if one fails.

        Args:
            alone: write no status, retire at once and leave rollouts as they are: there is no
                server yet.

        Returns:
            Whether a rollout changed: another round is due.

        Raises:
            Exception: the first of what went wrong.
        """
        failures: list[Exception] = []
        changed = False
        for name, family in self._models().items():
            try:
                changed |= self._follow(self._state(name, family), alone)
            # A bug with one model is no reason to leave the others.
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return changed

    def _follow(self, state: ModelState, alone: bool) -> bool:
        name = state.name
        if name not in self._syncs:
            self._syncs[name] = self._sync(name, alone)
        self._syncs[name].round(state)
        family = self._repository.family_of(name)
        if alone or family is None:
            return False
        if name not in self._rollouts:
            self._rollouts[name] = Rollouts(self._registry, self._gateways, self._settings.instance)
        return self._rollouts[name].follow(state, family)

    def _sync(self, name: str, alone: bool) -> ModelSync:
        settings = self._settings
        store = Store(settings.versions_folder, name, settings.sync_versions, settings.sync_bytes)
        return ModelSync(
            name,
            self._registry,
            store,
            self._repository,
            self._server,
            instance="" if alone else settings.instance,
            judges=self._gateways.known,
            retire_s=0 if alone else settings.sync_retire_s,
        )

    def _models(self) -> dict[str, str | None]:
        """Registered models that are followed, and the family of what the repository serves."""
        if self._settings.models:
            return dict.fromkeys(self._settings.models)
        repository = self._settings.repository
        families = model_names(repository) if repository.is_dir() else []
        models: dict[str, str | None] = {registered_name(family): family for family in families}
        for name in self._registry.names(_PREFIX, CHAMPION):
            # Locks have a dot in their names.
            if "." not in name and is_name(name) and len(models) < MAX_MODELS:
                models.setdefault(name)
        return models

    def _state(self, name: str, family: str | None) -> ModelState:
        """The state of a model; what the given repository serves of it becomes the first champion.

        Args:
            name: of the model.
            family: that the repository serves; None where it does not.
        """
        state: ModelState | None = None
        try:
            state = read_state(self._registry, name)
            if family is None or state.champion is not None or state.changes:
                return state
        except ModelNotFound:
            if family is None:
                raise
        settings = self._settings
        adopt_served(self._registry, state, settings.repository, family, settings.check_frame)
        return read_state(self._registry, name)


class Loop:
    """Runs rounds until it is stopped; `wake` asks for one now."""

    def __init__(self, followed: Followed, interval_s: float, health: Path) -> None:
        """Describe it; `run` runs it.

        Args:
            followed: the models.
            interval_s: between two rounds, seconds.
            health: file that says in a line whether all is well, for whoever asks the gateway.
        """
        self._followed = followed
        self._interval_s = interval_s
        self._health = health
        self._due = threading.Event()
        self._stopped = False
        self._problem = ""
        self._succeeded: datetime | None = None
        self._backoff = Backoff()

    def wake(self) -> None:
        """Ask for a round now."""
        self._due.set()

    def stop(self) -> None:
        """End after the step under way."""
        self._stopped = True
        self._due.set()

    def status(self) -> dict[str, Any]:
        """Whether all is well, since when, and what is not."""
        succeeded = self._succeeded.isoformat() if self._succeeded else None
        return {"ok": not self._problem, "last_success": succeeded, "problem": self._problem}

    def run(self) -> None:
        """Run rounds; returns once it is stopped."""
        for wait_s in self._rounds():
            self._due.wait(wait_s)
            self._due.clear()

    def _rounds(self) -> Iterator[float]:
        """A round each; gives the seconds until the next."""
        healthy_s = math.inf
        while not self._stopped:
            try:
                again = self._followed.round()
            # A bug is no reason to end: the next round may be of another state.
            except Exception as error:
                wait_s = self._backoff.failed(healthy_s)
                healthy_s = 0.0
                self._note(error)
                yield max(wait_s, _LEAST_WAIT_S)
            else:
                healthy_s = math.inf
                self._note(None)
                yield 0.0 if again else self._interval_s

    def _note(self, error: Exception | None) -> None:
        """Say what is wrong, once, and that it is over."""
        metrics.REGISTRY_REACHABLE.set(not isinstance(error, RegistryUnavailable))
        if error is None:
            self._succeeded = datetime.now(UTC)
            metrics.LAST_ROUND.set_to_current_time()
            if self._problem:
                logger.info(Event("recovered"))
            self._problem = ""
            self._write_health()
            return
        metrics.FAILURES.labels(type(error).__name__).inc()
        if not isinstance(error, (NucleiError, OSError)):
            logger.error("a round failed", exc_info=error)
        elif sentence(error) != self._problem:
            logger.warning(Event("not_in_sync", why=sentence(error)))
        self._problem = sentence(error)
        self._write_health()

    def _write_health(self) -> None:
        """Without what is wrong: everybody may read it."""
        last = self._succeeded.isoformat(timespec="seconds") if self._succeeded else "never"
        line = f"sync: {'failing, ' if self._problem else ''}last in step with the registry {last}"
        with suppress(OSError):  # a full disk
            self._health.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._health, f"{line}\n")
