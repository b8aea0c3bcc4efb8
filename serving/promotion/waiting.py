"""Waiting for a version to be the champion of every sync process that is live."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

from nuclei.errors import Conflict, EngineUnavailable, VersionRefused
from serving.promotion.state import LIVE_S, ModelState, read_state
from serving.registry import Registry

POLL_S = 1.0


def follow(registry: Registry, model: str, version: int) -> Iterator[str]:
    """What a promotion is doing, until every live sync process serves the version.

    Args:
        registry: of the model; read each second.
        model: name of the registered model or of its family.
        version: was promoted.

    Yields:
        One sentence, each time it is another one.

    Raises:
        VersionRefused: its rollout was aborted, or a process could not serve it.
        Conflict: another version is champion or challenger by now.
        EngineUnavailable: no sync process is live.
        RegistryUnavailable: the registry does not answer.
    """
    shown = None
    while (sentence := doing(read_state(registry, model), version)) is not None:
        if sentence != shown:
            yield sentence
        shown = sentence
        time.sleep(POLL_S)


def doing(state: ModelState, version: int) -> str | None:
    """What is being done for a version that was promoted; None once nothing is left to do.

    Raises:
        VersionRefused, Conflict, EngineUnavailable: as `follow`.
    """
    entry = state.find(version)
    for reason in (entry.refused, entry.aborted):
        if reason is not None:
            raise VersionRefused(f"{state.name} {version} does not serve: {reason}")
    live = state.live_syncs(datetime.now(UTC))
    if not live:
        raise EngineUnavailable(
            f"no sync process spoke in the last {LIVE_S:g} s, so nothing serves what the registry "
            "says; start `nuclei sync` beside each Triton, or `nuclei serve` with --sync"
        )
    rollout = state.rollout
    if rollout is not None and rollout.version == version:
        phase = rollout.current
        return (
            f"phase {rollout.phase + 1} of {len(rollout.phases)}: {phase.mode} "
            f"{phase.fraction:.3g} of the traffic, {phase.frames} frames"
        )
    if state.champion != version:
        last = state.changes[-1].change if state.changes else None
        by = f" by {last.who}" if last else ""
        raise Conflict(
            f"{state.name} {version} was taken back{by}: the champion is {state.champion or 'none'}"
        )
    lacking = [name for name, status in live.items() if status.champion != version]
    if not lacking:
        return None
    return f"{len(live) - len(lacking)} of {len(live)} sync processes serve it; not yet: " + (
        ", ".join(lacking[:3])
    )
