"""The registry for a gateway: what it may show of it and change in it.

`python -m serving.promotion.administration` answers requests about the registry `NUCLEI_REGISTRY`,
one line of JSON each, until its input ends. It is a process of its own, because MLflow takes
seconds to import, may wait for a server for a minute, and cannot be told to stop.
"""

import os
import sys
import traceback
from datetime import UTC, datetime
from typing import TextIO

from pydantic import BaseModel, ConfigDict, ValidationError

from nuclei.errors import (
    Conflict,
    InternalError,
    InvalidData,
    ModelNotFound,
    NucleiError,
    VersionRefused,
)
from nuclei.registry import REGISTERED_PREFIX
from serving.promotion import changes
from serving.promotion.lock import is_lock
from serving.promotion.state import ModelState, VersionState, read_state
from serving.promotion.waiting import doing
from serving.registry import Registry
from serving.registry_report import (
    MAX_CHANGES,
    MAX_VERSIONS,
    URI_VARIABLE,
    Answer,
    Changed,
    DatedChange,
    GatesReport,
    ModelReport,
    Progress,
    Promotion,
    RegisteredVersion,
    RegistryReport,
    Request,
    Return,
    Rollback,
    Trial,
    Verdict,
)

GATES_FILE = "gates.json"
MAX_GATES_BYTES = 2**20
SCORES = ("dsb_score", "tta/dsb_score")


def report(registry: Registry) -> RegistryReport:
    """All registered models.

    Raises:
        RegistryUnavailable: the registry does not answer.
    """
    names = [name for name in registry.names(REGISTERED_PREFIX) if not is_lock(name)]
    now = datetime.now(UTC)
    return RegistryReport(
        models=[_model(read_state(registry, name), now) for name in sorted(names)]
    )


def gates(registry: Registry, model: str, version: int) -> GatesReport:
    """Each gate of a version, as `nuclei gate` has recorded them.

    Raises:
        ModelNotFound: there is no such model or version, or it was never judged.
        InvalidData: the record is gone or cannot be read.
        RegistryUnavailable: the registry does not answer.
    """
    found = read_state(registry, model).find(version).gates
    if found is None or not found.run_id:
        raise ModelNotFound(f"no gates of {model} {version} are recorded; run `nuclei gate`")
    content = registry.read_artifact(found.run_id, GATES_FILE, MAX_GATES_BYTES)
    try:
        return _RecordedGates.model_validate_json(content)
    except ValidationError:
        raise InvalidData(
            f"{GATES_FILE} of run {found.run_id} is not what `nuclei gate` writes; run it again"
        ) from None


def promote(registry: Registry, model: str, wanted: Promotion, who: str) -> Changed:
    """Promote a version, as `nuclei promote` does, if the champion is the one that was seen.

    Raises:
        Conflict: it is another one; or as `changes.promote`.
        NucleiError: as `changes.promote`.
    """
    seen = read_state(registry, model)
    if seen.champion not in (wanted.champion, wanted.version):
        raise _changed_meanwhile(seen, f"version {wanted.champion or 'none'}")
    changed = changes.promote(registry, model, wanted.version, why=wanted.why, who=who, seen=seen)
    return Changed(changed=changed, champion=wanted.version)


def rollback(registry: Registry, model: str, wanted: Rollback, who: str) -> Changed:
    """Roll back, as `nuclei rollback` does, if that does what was seen.

    Raises:
        Conflict: it would do something else; or as `changes.rollback`.
        NucleiError: as `changes.rollback`.
    """
    seen = read_state(registry, model)
    if seen.rollout is None and seen.champion == wanted.champion:
        return Changed(changed=False, champion=wanted.champion)
    possible = _rollback(seen)
    if possible is None or (possible.version, possible.champion) != (
        wanted.version,
        wanted.champion,
    ):
        raise _changed_meanwhile(seen, f"version {wanted.version} in use or on trial")
    changes.rollback(registry, model, wanted.why, who, seen)
    return Changed(changed=True, champion=wanted.champion)


class _RecordedGates(GatesReport):
    """With what else the file says."""

    model_config = ConfigDict(extra="ignore")


def _changed_meanwhile(seen: ModelState, expected: str) -> Conflict:
    return Conflict(
        f"{seen.name} was changed meanwhile: version {seen.champion or 'none'} is the champion, "
        f"and {expected} was expected; look at what is so now, then decide again"
    )


def _model(state: ModelState, now: datetime) -> ModelReport:
    live = state.live_syncs(now).values()
    shown = [
        entry
        for place, entry in enumerate(state.versions)
        if place < MAX_VERSIONS or entry.version == state.champion
    ]
    return ModelReport(
        name=state.name,
        champion=state.champion,
        trial=_trial(state),
        rollback=_rollback(state),
        processes=len(live),
        versions=[
            _version(entry, sum(entry.version in status.loaded for status in live))
            for entry in shown
        ],
        changes=[
            DatedChange(
                at=entry.at.timestamp(),
                action=entry.change.action,
                from_version=entry.change.from_version,
                to_version=entry.change.to_version,
                why=entry.change.why,
            )
            for entry in reversed(state.changes[-MAX_CHANGES:])
        ],
        problems=list(state.problems),
    )


def _rollback(state: ModelState) -> Return | None:
    """What `changes.rollback` would do."""
    if state.champion is None:
        return None
    if state.rollout is not None:
        return Return(version=state.rollout.version, champion=state.champion)
    before = state.champion_before()
    return None if before is None else Return(version=state.champion, champion=before)


def _trial(state: ModelState) -> Trial | None:
    if (rollout := state.rollout) is None:
        return None
    return Trial(
        version=rollout.version,
        mode=rollout.current.mode,
        fraction=rollout.current.fraction,
        phase=rollout.phase + 1,
        phases=len(rollout.phases),
    )


def _version(entry: VersionState, loaded: int) -> RegisteredVersion:
    tags = entry.registered.tags
    return RegisteredVersion(
        version=entry.version,
        registered=entry.registered.created.timestamp(),
        gates=None
        if entry.gates is None
        else Verdict(
            passed=entry.gates.verdict == "passed",
            reason=entry.gates.reason,
            against=entry.gates.against,
            evaluation_set=entry.gates.evaluation_set,
        ),
        adopted=entry.adopted is not None,
        refusal=_refusal(entry),
        licence=entry.licence,
        approval=entry.approval,
        scores={name: tags[name][:32] for name in SCORES if name in tags},
        loaded=loaded,
    )


def _refusal(entry: VersionState) -> str | None:
    try:
        changes.check_verdicts(entry)
    except VersionRefused as error:
        return str(error)
    return None


def _answered(registry: Registry, request: Request) -> BaseModel:
    model, version = request.model, request.version
    who = f"{changes.myself()}, by its page for {request.caller or 'nobody known'}"
    match request.action:
        case "report":
            return report(registry)
        case "promote" if request.promotion is not None:
            return promote(registry, model, request.promotion, who)
        case "rollback" if request.rollback is not None:
            return rollback(registry, model, request.rollback, who)
        case "gates" if version is not None:
            return gates(registry, model, version)
        case "progress" if version is not None:
            return Progress(doing=doing(read_state(registry, model), version))
        case _:
            raise InternalError("a gateway asked for what does not exist")


def _answer(registry: Registry, line: str) -> Answer:
    try:
        found = _answered(registry, Request.model_validate_json(line))
        return Answer(result=found.model_dump_json())
    except NucleiError as error:
        return Answer(error=type(error).__name__, message=str(error))
    except Exception:
        traceback.print_exc()
        return Answer(error=InternalError.__name__, message="")


def _own_output() -> TextIO:
    """What the gateway reads; what libraries print goes to the log instead."""
    ours = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return ours


def main() -> None:
    """Answer until the gateway has gone."""
    output = _own_output()
    # Not as an argument, which every user of the machine could read: it may hold a password.
    registry = Registry(os.environ[URI_VARIABLE])
    for line in sys.stdin:
        print(_answer(registry, line).model_dump_json(), file=output, flush=True)


if __name__ == "__main__":
    main()
