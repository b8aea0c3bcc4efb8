"""Moves rollouts on: the next phase, the champion at the end, or an abort; with a run in MLflow."""

import base64
import binascii
import logging
import time
from datetime import UTC, datetime

from nuclei.errors import Conflict, VersionRefused
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
    """Follows the rollouts of one model; of several processes the one with the first name acts."""

    def __init__(self, registry: Registry, gateways: Gateways, instance: str) -> None:
        """Args: registry: of the model; gateways: who report; instance: of this process."""
        self._registry, self._gateways, self._instance = registry, gateways, instance
        self._trial = Trial()
        self._logged = -_LOG_S

    def follow(self, state: ModelState, family: str) -> bool:
        """Look at the rollout under way, if any; whether it changed.

        Raises:
            RegistryUnavailable: the registry does not answer.
        """
        rollout = state.rollout
        if rollout is None or state.champion is None or not self._acts(state):
            return False
        judgement = self._trial.judge(rollout, family, state.champion, self._gateways.reports())
        try:
            changed = self._decide(state, rollout, judgement)
        except Conflict as error:
            logger.info(Event("conflict", model=state.name, why=str(error)))
            return True
        self._log(state, rollout, judgement, last=changed)
        return changed

    def _acts(self, state: ModelState) -> bool:
        live = {*state.live_syncs(datetime.now(UTC)), self._instance}
        return self._instance == min(live)

    def _decide(self, state: ModelState, rollout: Rollout, judgement: Judgement) -> bool:
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
        if judgement.frames < rollout.current.frames:
            return False
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
