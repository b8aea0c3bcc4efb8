"""Moves rollouts on: the next phase, the champion at the end, or an abort; with a run in MLflow."""

import base64
import binascii
import logging
import time
from datetime import UTC, datetime

from nuclei.errors import Conflict, InvalidOption, VersionRefused
from serving.logs import Event
from serving.promotion import metrics
from serving.promotion.changes import abort, advance
from serving.promotion.state import ModelState, Rollout
from serving.promotion.trial import Gateways, Judgement, Trial
from serving.registry import RecordedRun, Registry

logger = logging.getLogger(__name__)

RUN_TAG = "rollout.run_id"
_LOG_S = 10.0


class Rollouts:
    """Follows the rollouts of one model.

    Every process ends a rollout that one of its gateways has aborted. Of those that know gateways,
    the one with the first name moves it on.
    """

    def __init__(self, registry: Registry, gateways: Gateways, instance: str) -> None:
        """Args: registry: of the model; gateways: who report; instance: of this process."""
        self._registry, self._gateways, self._instance = registry, gateways, instance
        self._trial = Trial()
        self._logged = -_LOG_S

    def follow(self, state: ModelState, family: str) -> bool:
        """Look at the rollout under way, if any; whether it changed.

        Raises:
            InvalidOption: no process knows gateways, so that it would stand still for ever.
            RegistryUnavailable: the registry does not answer.
        """
        rollout = state.rollout
        if rollout is None or state.champion is None:
            return False
        judgement = self._trial.judge(rollout, family, state.champion, self._gateways.reports())
        try:
            ended = self._end(state, rollout, judgement)
            if not ended and not self._leads(state):
                return False
            changed = ended or self._move_on(state, rollout, judgement)
        except Conflict as error:
            logger.info(Event("conflict", model=state.name, why=str(error)))
            return True
        self._log(state, rollout, judgement, last=changed)
        return changed

    def _leads(self, state: ModelState) -> bool:
        """Whether it is the first of the live processes that know gateways."""
        live = state.live_syncs(datetime.now(UTC))
        judges = {name for name, status in live.items() if status.judges and name != self._instance}
        if self._gateways.known:
            judges.add(self._instance)
        if not judges:
            raise InvalidOption(
                f"a rollout of {state.name} is under way, and no sync process knows a gateway that "
                "could report about it: set NUCLEI_GATEWAYS, or end it with `nuclei rollback`"
            )
        return self._instance == min(judges)

    def _end(self, state: ModelState, rollout: Rollout, judgement: Judgement) -> bool:
        """End the rollout of a version that is not good enough; whether it was."""
        version = rollout.version
        if judgement.aborted:
            abort(self._registry, state.name, rollout, judgement.aborted, who=self._instance)
            metrics.ABORTED.labels(state.name).inc()
            logger.warning(
                Event("aborted", model=state.name, version=version, why=judgement.aborted)
            )
            return True
        entry = state.find(version)
        # Refused by a process, or an abort that was cut off.
        if (reason := entry.refused or entry.aborted) is not None:
            abort(self._registry, state.name, rollout, reason, who=self._instance)
            return True
        return False

    def _move_on(self, state: ModelState, rollout: Rollout, judgement: Judgement) -> bool:
        """Begin the next phase, or make the challenger champion; whether it was time for that."""
        if judgement.frames < rollout.current.frames:
            return False
        version = rollout.version
        try:
            over = advance(self._registry, state.name, rollout, who=self._instance)
        except VersionRefused as error:  # its gates were run again, and say something else
            abort(self._registry, state.name, rollout, str(error), who=self._instance)
            return True
        event = "rolled_out" if over else "next_phase"
        logger.info(Event(event, model=state.name, version=version, frames=judgement.frames))
        return True

    def _log(self, state: ModelState, rollout: Rollout, judgement: Judgement, last: bool) -> None:
        """Write the figures into the run of the rollout, the pictures when a phase ends."""
        if not judgement.figures or (time.monotonic() - self._logged < _LOG_S and not last):
            return
        self._logged = time.monotonic()
        run = self._run(state, rollout)
        run.metrics(judgement.figures)
        if not last:
            return
        for place, worst in enumerate(judgement.worst[:16]):
            try:
                png = base64.b64decode(worst.png, validate=True)
            except binascii.Error:
                continue
            name = f"phase{rollout.phase}_{place:02}_ap{worst.agreement:.2f}.png"
            run.file(png, "worst", name)
        run.end()

    def _run(self, state: ModelState, rollout: Rollout) -> RecordedRun:
        """The run of this rollout, also after a restart of this process."""
        known = state.find(rollout.version).registered.tags.get(RUN_TAG, "")
        run = self._registry.begun_run(f"rollout of {state.name} {rollout.version}", known)
        if run.id != known:
            self._registry.set_tags(state.name, {RUN_TAG: run.id}, rollout.version)
        return run
