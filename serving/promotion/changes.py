"""The changes of a model's state: promote, roll back, roll out, abort.

Each holds the model's lock and reads the state again. The audit trail is written first, the aliases
then, the tag of the rollout last; so the same change, made again after a kill between two writes,
completes it. The aliases are what is so: where the trail says otherwise, the next change notes it.
"""

import getpass
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from nuclei.errors import Conflict, ModelNotFound, VersionRefused
from nuclei.quoting import sentence
from nuclei.registry import CHAMPION
from serving.promotion.artifacts import digest
from serving.promotion.lock import Lock, locked
from serving.promotion.state import (
    ABORTED_TAG,
    CHALLENGER,
    REFUSED_TAG,
    ROLLOUT_TAG,
    SYNC_PREFIX,
    Action,
    Change,
    Gates,
    ModelState,
    Phase,
    Rollout,
    SyncStatus,
    VersionState,
    audit_key,
    next_time,
    read_state,
)
from serving.registry import Registry

# A process that was silent for so long has gone; one of Kubernetes never comes back by its name.
FORGET_AFTER = timedelta(days=1)


def myself() -> str:
    """The user and the machine, for the audit trail."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def promote(
    registry: Registry,
    model: str,
    version: int,
    phases: Sequence[Phase] = (),
    why: str = "",
    who: str | None = None,
    seen: ModelState | None = None,
) -> bool:
    """Make a version the champion: at once, or after a rollout. Made again, it changes nothing.

    Args:
        registry: of the model.
        model: name of the registered model or of its family.
        version: a version that passed its gates.
        phases: of the rollout; none moves the champion at once.
        why: for the audit trail.
        who: for the audit trail; None is `myself()`.
        seen: the state on which the caller has decided; None reads it.

    Returns:
        Whether anything was changed: False when it is the champion, or its rollout is under way.

    Raises:
        ModelNotFound: there is no such model or version.
        VersionRefused: it did not pass the gates with these files, was aborted, or was refused.
        Conflict: a rollout is under way, or somebody else changes the model.
        InvalidData: its files cannot be fetched.
        RegistryUnavailable: the registry does not answer.
    """
    seen = seen or read_state(registry, model)
    entry = seen.find(version)
    wanted = tuple(phases)
    if seen.champion == version:
        return False
    if seen.rollout is not None:
        _check_same(seen.rollout, version, wanted)
        return False
    check_gates(registry, entry)
    with _changing(registry, seen, who) as change:
        check_verdicts(change.state.find(version))
        if wanted:
            change.start_rollout(version, wanted, why)
        else:
            change.move_champion("promote", version, why)
    return True


def rollback(
    registry: Registry,
    model: str,
    why: str = "",
    who: str | None = None,
    seen: ModelState | None = None,
) -> tuple[int | None, int | None]:
    """Go back: end the rollout that is under way, or else make the champion before champion again.

    Args:
        registry: of the model.
        model: name of the registered model or of its family.
        why: for the audit trail.
        who: for the audit trail; None is `myself()`.
        seen: the state on which the caller has decided; None reads it.

    Returns:
        The version that was taken back, and the champion now.

    Raises:
        ModelNotFound: there is no such model, or no champion before.
        Conflict: somebody else changes the model.
        RegistryUnavailable: the registry does not answer.
    """
    seen = seen or read_state(registry, model)
    if seen.rollout is not None:
        with _changing(registry, seen, who) as change:
            change.abort_rollout(seen.rollout, why)
        return seen.rollout.version, seen.champion
    before = seen.champion_before()
    if before is None:
        raise ModelNotFound(
            f"'{seen.name}' has no champion before {seen.champion or 'the first'} that could "
            "serve; promote another version: see `nuclei models`"
        )
    with _changing(registry, seen, who) as change:
        change.move_champion("rollback", before, why)
    return seen.champion, before


def advance(registry: Registry, model: str, rollout: Rollout, who: str | None = None) -> bool:
    """End a phase of a rollout: the next one begins, or the challenger becomes champion.

    Args:
        registry: of the model.
        model: name of the registered model.
        rollout: as the caller saw it; another one is left alone.
        who: for the audit trail; None is `myself()`.

    Returns:
        Whether the rollout is over.

    Raises:
        ModelNotFound: there is no such model.
        VersionRefused: its challenger was refused or aborted meanwhile.
        Conflict: the rollout is another one by now, or somebody else changes the model.
        RegistryUnavailable: the registry does not answer.
    """
    seen = read_state(registry, model)
    if seen.rollout != rollout:
        raise Conflict(f"the rollout of '{model}' is another one by now; read the state again")
    over = rollout.phase + 1 >= len(rollout.phases)
    with _changing(registry, seen, who) as change:
        if over:
            check_verdicts(seen.find(rollout.version))
            change.move_champion("promote", rollout.version, rollout.why)
        else:
            change.next_phase(rollout)
    return over


def abort(
    registry: Registry, model: str, rollout: Rollout, reason: str, who: str | None = None
) -> None:
    """End a rollout because the challenger is not good enough; the version is tagged with it.

    Args:
        registry: of the model.
        model: name of the registered model.
        rollout: as the caller saw it; another one is left alone.
        reason: one sentence.
        who: for the audit trail; None is `myself()`.

    Raises:
        ModelNotFound: there is no such model.
        Conflict: the rollout is another one by now, or somebody else changes the model.
        RegistryUnavailable: the registry does not answer.
    """
    seen = read_state(registry, model)
    if seen.rollout != rollout:
        raise Conflict(f"the rollout of '{model}' is another one by now; read the state again")
    with _changing(registry, seen, who) as change:
        change.tag_version(rollout.version, ABORTED_TAG, reason)
        change.abort_rollout(rollout, reason)


def adopt(
    registry: Registry, model: str, version: int, why: str = "", who: str | None = None
) -> bool:
    """Make a version the first champion of a model that has none, without gates.

    Args:
        registry: of the model.
        model: name of the registered model.
        version: what is served already.
        why: for the audit trail.
        who: for the audit trail; None is `myself()`.

    Returns:
        Whether it was done: False when there is a champion.

    Raises:
        ModelNotFound: there is no such model or version.
        Conflict: somebody else changes the model.
        RegistryUnavailable: the registry does not answer.
    """
    seen = read_state(registry, model)
    seen.find(version)
    if seen.champion is not None:
        return False
    with _changing(registry, seen, who) as change:
        change.move_champion("adopt", version, why)
    return True


def refuse(registry: Registry, model: str, version: int, reason: str) -> None:
    """Note that a version cannot be served; sync takes it no more until its gates pass again."""
    registry.set_tags(model, {REFUSED_TAG: sentence(reason)}, version)


def record_gates(registry: Registry, model: str, version: int, gates: Gates) -> None:
    """Note what the gates said; when they passed, earlier refusals and aborts are forgotten."""
    registry.set_tags(model, gates.to_tags(), version)
    if gates.verdict == "passed":
        for tag in (REFUSED_TAG, ABORTED_TAG):
            registry.delete_tag(model, tag, version)


def report_status(registry: Registry, state: ModelState, instance: str, status: SyncStatus) -> None:
    """Note what a sync process serves, and forget the processes that have gone for good.

    Args:
        registry: of the model.
        state: of the model, as it was read last.
        instance: the process.
        status: what it serves.
    """
    registry.set_tags(state.name, {f"{SYNC_PREFIX}{instance}": status.to_tag()})
    for name, known in state.syncs.items():
        if name != instance and status.at - known.at > FORGET_AFTER:
            registry.delete_tag(state.name, f"{SYNC_PREFIX}{name}")


def check_gates(registry: Registry, entry: VersionState) -> None:
    """Check that a version may serve: it passed the gates with exactly the files that it has.

    Raises:
        VersionRefused: it may not.
        InvalidData: its files cannot be fetched, or are not what a version has.
        RegistryUnavailable: the registry does not answer.
    """
    gates = check_verdicts(entry)
    with TemporaryDirectory() as scratch:
        found = digest(registry.download(entry.registered, Path(scratch)))
    if found != gates.digest:
        raise VersionRefused(
            f"the files of {_named(entry)} are not those that passed the gates (digest {found}, "
            f"then {gates.digest}); run `nuclei gate {entry.version} --model "
            f"{entry.registered.model}` again"
        )


@dataclass(frozen=True)
class _Changing:
    """A model whose lock is held.

    Attributes:
        registry: of the model.
        state: as it is; nobody else changes it.
        lock: of the model.
        who: for the audit trail.
    """

    registry: Registry
    state: ModelState
    lock: Lock
    who: str

    def move_champion(self, action: Action, version: int, why: str) -> None:
        """Let the alias `champion` point at a version; a rollout ends with that."""
        if self.state.champion != version:
            self._note(action, self.state.champion, version, why)
        self._write(lambda: self.registry.set_alias(self.state.name, CHAMPION, version))
        self._clear_rollout()

    def start_rollout(self, version: int, phases: tuple[Phase, ...], why: str) -> None:
        """Let the alias `challenger` point at a version, and its rollout begin."""
        rollout = Rollout(
            version=version, phases=phases, who=self.who, since=datetime.now(UTC), why=sentence(why)
        )
        self._note("challenge", self.state.champion, version, why)
        self._write(lambda: self.registry.set_alias(self.state.name, CHALLENGER, version))
        self._write_rollout(rollout)

    def next_phase(self, rollout: Rollout) -> None:
        """Begin the phase after the one under way."""
        update = {"phase": rollout.phase + 1, "since": datetime.now(UTC)}
        self._write_rollout(rollout.model_copy(update=update))

    def abort_rollout(self, rollout: Rollout, why: str) -> None:
        """Take the challenger away."""
        self._note("abort", rollout.version, self.state.champion, why)
        self._clear_rollout()

    def tag_version(self, version: int, tag: str, text: str) -> None:
        self._write(lambda: self.registry.set_tags(self.state.name, {tag: sentence(text)}, version))

    def _clear_rollout(self) -> None:
        self._write(lambda: self.registry.delete_alias(self.state.name, CHALLENGER))
        self._write(lambda: self.registry.delete_tag(self.state.name, ROLLOUT_TAG))

    def _write_rollout(self, rollout: Rollout) -> None:
        self._write(
            lambda: self.registry.set_tags(self.state.name, {ROLLOUT_TAG: rollout.to_tag()})
        )

    def _note(
        self, action: Action, from_version: int | None, to_version: int | None, why: str
    ) -> None:
        """Add to the audit trail, unless its last entry says the same: a change made again."""
        change = Change(
            action=action,
            who=self.who,
            why=sentence(why),
            from_version=from_version,
            to_version=to_version,
        )
        last = self.state.changes[-1] if self.state.changes else None
        if last is not None and _essence(last.change) == _essence(change):
            return
        at = last.at if last else None
        if self.state.recorded_champion != self.state.champion:
            at = self._append(_found(self.state, self.who), at)
        self._append(change, at)

    def _append(self, change: Change, last: datetime | None) -> datetime:
        at = next_time(datetime.now(UTC), last)
        self._write(
            lambda: self.registry.set_tags(self.state.name, {audit_key(at): change.to_tag()})
        )
        return at

    def _write(self, write: Callable[[], None]) -> None:
        self.lock.check()
        write()


@contextmanager
def _changing(registry: Registry, seen: ModelState, who: str | None) -> Iterator[_Changing]:
    """Hold the lock of a model that is still as it was seen; raises Conflict when it is not."""
    who = sentence(who or myself())
    with locked(registry, seen.name, who) as lock:
        now = read_state(registry, seen.name)
        if _decisive(now) != _decisive(seen):
            last = now.changes[-1].change if now.changes else None
            raise Conflict(
                f"'{now.name}' was changed meanwhile{_by(last) if last else ''}; see "
                "`nuclei models`, then decide again"
            )
        yield _Changing(registry, now, lock, who)


def _decisive(state: ModelState) -> tuple[object, ...]:
    """What a change depends on."""
    return state.champion, state.challenger, state.rollout, state.changes[-1:]


def _essence(change: Change) -> tuple[object, ...]:
    return change.action, change.from_version, change.to_version


def _found(state: ModelState, who: str) -> Change:
    """The entry for a champion that is not the one of the trail."""
    return Change(
        action="adopt",
        who=who,
        why="found so: the alias was moved without `nuclei`, or a change was cut off",
        from_version=state.recorded_champion,
        to_version=state.champion,
    )


def _by(change: Change) -> str:
    return f" by {change.who} ({change.action} {change.from_version} to {change.to_version})"


def _check_same(rollout: Rollout, version: int, phases: tuple[Phase, ...]) -> None:
    """Check that the rollout under way is the one that is asked for."""
    if (rollout.version, rollout.phases) != (version, phases):
        raise Conflict(
            f"a rollout of version {rollout.version} by {rollout.who} is under way; wait for its "
            "end (`nuclei models`), or end it with `nuclei rollback`"
        )


def check_verdicts(entry: VersionState) -> Gates:
    """Check what the tags of a version say; its files are not looked at.

    Returns:
        The gates that it passed.

    Raises:
        VersionRefused: it may not serve; the message says why.
    """
    command = f"`nuclei gate {entry.version} --model {entry.registered.model}`"
    again = f"to judge it anew: {command}"
    if entry.refused is not None:
        raise VersionRefused(f"{_named(entry)} could not be served: {entry.refused}; {again}")
    if entry.aborted is not None:
        raise VersionRefused(f"the rollout of {_named(entry)} failed: {entry.aborted}; {again}")
    if entry.gates is None:
        raise VersionRefused(f"{_named(entry)} has not passed the gates; run {command}")
    if entry.gates.verdict != "passed":
        raise VersionRefused(f"the gates refused {_named(entry)}: {entry.gates.reason}; {again}")
    return entry.gates


def _named(entry: VersionState) -> str:
    return f"{entry.registered.model} version {entry.version}"
