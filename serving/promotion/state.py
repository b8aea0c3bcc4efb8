"""What the registry says about a model, typed: champion, challenger, gates, rollout, who serves it.

The state is aliases and tags of MLflow (`serving.registry`), which everybody with access to the
registry can write. So every value is bounded and checked when it is read; one that is not what it
should be counts as absent and is named in `ModelState.problems`.

| where | what |
|---|---|
| alias `champion` | the version that answers |
| alias `challenger` | the version that a rollout tries |
| tag `rollout` of the model | `Rollout`, while one is under way |
| tags `audit.TIME` of the model | `Change`: who changed what, and why |
| tags `sync.INSTANCE` of the model | `SyncStatus`: what a process beside a Triton serves |
| tags `gate.*` of a version | `Gates`: the verdict for exactly these files |
| tags `approval`, `licence` of a version | who approved it; SPDX or free text |
| tag `adopted` of a version | digest of the files that were served before there were gates |
| tag `sync.refused` of a version | why no sync process takes it |
| tag `rollout.aborted` of a version | why its rollout was ended |
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from nuclei.errors import ModelNotFound
from nuclei.names import is_name
from nuclei.quoting import printable, quoted, sentence
from nuclei.registry import CHAMPION, LICENCE_TAG, registered_name
from serving.registry import RegisteredModel, RegisteredVersion, Registry

CHALLENGER = "challenger"
ROLLOUT_TAG = "rollout"
AUDIT_PREFIX = "audit."
SYNC_PREFIX = "sync."
GATE_PREFIX = "gate."
APPROVAL_TAG = "approval"
ADOPTED_TAG = "adopted"
REFUSED_TAG = "sync.refused"
ABORTED_TAG = "rollout.aborted"
# In the place of the version that another was compared with.
NO_VERSION = "none"

# What is read of a registry that somebody filled.
MAX_VALUE_CHARACTERS = 16_384
MAX_CHANGES = 1000
MAX_INSTANCES = 100
MAX_PROBLEMS = 20
LIVE_S = 90.0
# Sorts as text in the order of time, and holds only what a key of a tag may.
_TIME = "%Y%m%dT%H%M%S.%f"

Text = Annotated[str, Field(max_length=1000), AfterValidator(printable)]
Version = Annotated[int, Field(ge=1, le=2**31 - 1)]


class _Record(BaseModel):
    """A value of a tag. Fields that a later release adds are left out."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False, extra="ignore")

    def to_tag(self) -> str:
        """The JSON that the tag holds."""
        return self.model_dump_json(by_alias=True)


class Phase(_Record):
    """A step of a rollout.

    Attributes:
        mode: `shadow`: frames also go to the challenger; `canary`: it answers some callers.
        fraction: of frames, or of callers.
        frames: how many frames of the challenger end the phase.
    """

    mode: Literal["shadow", "canary"]
    fraction: Annotated[float, Field(gt=0, le=1)]
    frames: Annotated[int, Field(ge=1, le=10**9)]


class Rollout(_Record):
    """A challenger on its way to become the champion.

    Attributes:
        version: the challenger.
        phases: what it has to go through, in this order.
        phase: index of the one under way.
        who: started it.
        since: when the phase under way began.
        why: as given by who started it.
    """

    version: Version
    phases: Annotated[tuple[Phase, ...], Field(min_length=1, max_length=8)]
    phase: Annotated[int, Field(ge=0, le=7)] = 0
    who: Text
    since: AwareDatetime
    why: Text = ""

    @property
    def current(self) -> Phase:
        """The phase under way."""
        return self.phases[min(self.phase, len(self.phases) - 1)]


Action = Literal["promote", "rollback", "challenge", "abort", "adopt"]


class Change(_Record):
    """An entry of the audit trail.

    Attributes:
        action: `promote` and `rollback` move the champion; `challenge` starts a rollout, `abort`
            ends one; `adopt` notes a champion that was not set by these.
        who: user and machine.
        why: as given, or what was found.
        from_version: the version that was in its place before; None for none.
        to_version: the version that is there now; None for none.
    """

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    action: Action
    who: Text
    why: Text = ""
    from_version: Annotated[Version | None, Field(alias="from")] = None
    to_version: Annotated[Version | None, Field(alias="to")] = None


@dataclass(frozen=True)
class DatedChange:
    """A change and when it was made."""

    at: datetime
    change: Change


class SyncStatus(_Record):
    """What one sync process says that its Triton serves.

    Attributes:
        loaded: since when, by version.
        champion: the version that the plain name means there; None before there is one.
        judges: whether it knows gateways, whose reports decide about a rollout.
        at: when it said so.
    """

    loaded: Annotated[dict[Version, AwareDatetime], Field(max_length=100)]
    champion: Version | None = None
    judges: bool = False
    at: AwareDatetime

    def is_live(self, now: datetime) -> bool:
        """Whether it is recent; a process writes more often than that."""
        return abs((now - self.at).total_seconds()) < LIVE_S


class Gates(_Record):
    """What the gates said about a version: the tags `gate.*`.

    Attributes:
        verdict: of all gates together.
        reason: one sentence.
        run_id: the MLflow run with the report.
        evaluation_set: `NAME@sha256:...`: the images of the accuracy gate.
        digest: of the files that were judged; others need new gates.
        against: the version that it was compared with, `nuclei-unet 3`; `NO_VERSION` for none.
    """

    verdict: Literal["passed", "refused"]
    reason: Text = ""
    run_id: Annotated[str, Field(max_length=64, pattern=r"^[0-9a-zA-Z_-]*$")] = ""
    evaluation_set: Text = ""
    digest: Annotated[str, Field(max_length=128, pattern=r"^[0-9a-z:]+$")]
    against: Text = ""

    @property
    def outcome(self) -> str:
        """The verdict, and whether nothing was compared for it."""
        compared = "" if self.against != NO_VERSION else ", compared with no version"
        return f"{self.verdict}{compared}"

    def to_tags(self) -> dict[str, str]:
        """The tags of the model version."""
        return {f"{GATE_PREFIX}{name}": value for name, value in self.model_dump().items()}


@dataclass(frozen=True)
class VersionState:
    """A version of a model and what was found out about it.

    Attributes:
        registered: the version as the registry has it.
        gates: what the gates said; None when they were never run, or the tags are not readable.
        approval: who approved it, or None.
        licence: SPDX or free text, or None.
        adopted: digest of its files, when it was served before there were gates; or None.
        refused: why no sync process takes it, or None.
        aborted: why its rollout was ended, or None.
    """

    registered: RegisteredVersion
    gates: Gates | None
    approval: str | None
    licence: str | None
    adopted: str | None
    refused: str | None
    aborted: str | None

    @property
    def admitted(self) -> str | None:
        """Digest of the files that may serve: the gates let them pass, or they were adopted."""
        passed = self.gates is not None and self.gates.verdict == "passed"
        return self.gates.digest if self.gates is not None and passed else self.adopted

    @property
    def version(self) -> int:
        """Its number."""
        return self.registered.version

    @property
    def title(self) -> str:
        """Its model and number: `nuclei-unet 3`."""
        return f"{self.registered.model} {self.version}"


@dataclass(frozen=True)
class ModelState:
    """The state of one registered model at one moment.

    Attributes:
        name: of the registered model.
        champion: the version that answers, or None.
        challenger: the version that a rollout tries, or None.
        rollout: the one under way, or None.
        versions: newest first.
        changes: the audit trail, oldest first, the last `MAX_CHANGES`.
        syncs: by instance.
        problems: what of the registry could not be used, one sentence each.
    """

    name: str
    champion: int | None
    challenger: int | None
    rollout: Rollout | None
    versions: tuple[VersionState, ...]
    changes: tuple[DatedChange, ...]
    syncs: Mapping[str, SyncStatus]
    problems: tuple[str, ...]

    def find(self, version: int) -> VersionState:
        """One version; raises ModelNotFound when the model has no such."""
        for entry in self.versions:
            if entry.version == version:
                return entry
        known = ", ".join(str(entry.version) for entry in self.versions[:10]) or "none"
        raise ModelNotFound(f"'{self.name}' has no version {version}; the newest are: {known}")

    def live_syncs(self, now: datetime) -> dict[str, SyncStatus]:
        """The processes that spoke recently, by instance."""
        return {name: status for name, status in self.syncs.items() if status.is_live(now)}

    @property
    def recorded_champion(self) -> int | None:
        """The champion by the audit trail; another one when the alias was moved without us."""
        return next(reversed(self._recorded()), None)

    def former_champions(self) -> list[int]:
        """Champions before the present one, the last first: what rollbacks go back to, in turn.

        Promotions push onto a stack and rollbacks pop. An alias that was moved without us pops
        down to its version where that was champion before, and else is pushed.
        """
        stack = self._recorded()
        if self.champion is not None:
            _return_to(stack, self.champion)
        existing = {entry.version for entry in self.versions}
        return [version for version in reversed(stack[:-1]) if version in existing]

    def champion_before(self) -> int | None:
        """The version that a rollback makes champion: the last of them that could serve."""
        former = map(self.find, self.former_champions())
        usable = (one.version for one in former if one.refused is None and one.admitted is not None)
        return next(usable, None)

    def _recorded(self) -> list[int]:
        stack: list[int] = []
        for entry in self.changes:
            _replay(stack, entry.change)
        return stack


def read_state(registry: Registry, model: str) -> ModelState:
    """Read the state of a registered model.

    Args:
        registry: read twice.
        model: its name, or the name of its family: `nuclei-unet`, `unet`.

    Raises:
        InvalidOption: `model` is no name.
        ModelNotFound: there is no such model.
        RegistryUnavailable: the registry does not answer.
    """
    return model_state(find_model(registry, model))


def find_model(registry: Registry, model: str) -> RegisteredModel:
    """The registered model of this name, or else of the family of this name; raises as above."""
    try:
        return registry.model(model)
    except ModelNotFound:
        name = registered_name(model)
        if not is_name(name):
            raise
    return registry.model(name)


def model_state(model: RegisteredModel) -> ModelState:
    """The state, out of what was read of the registry."""
    problems: list[str] = []
    versions = tuple(_version_state(entry, problems) for entry in model.versions)
    existing = {entry.version for entry in versions}
    return ModelState(
        model.name,
        _alias(model, CHAMPION, existing, problems),
        _alias(model, CHALLENGER, existing, problems),
        _rollout(model, existing, problems),
        versions,
        tuple(_changes(model.tags, problems)),
        dict(_syncs(model.tags, problems)),
        tuple(problems[:MAX_PROBLEMS]),
    )


def next_time(now: datetime, last: datetime | None) -> datetime:
    """When the next change is: behind the last one, whatever the clock of this machine says."""
    return now if last is None else max(now, last + timedelta(milliseconds=1))


def audit_key(at: datetime) -> str:
    """Key of an entry of the audit trail; keys sort in the order of time."""
    return f"{AUDIT_PREFIX}{at.astimezone(UTC).strftime(_TIME)[:-3]}Z"


def _replay(stack: list[int], change: Change) -> None:
    version = change.to_version
    if version is None or change.action not in ("promote", "rollback", "adopt"):
        return
    if change.action == "promote" and stack[-1:] != [version]:
        stack.append(version)
    else:
        _return_to(stack, version)


def _return_to(stack: list[int], version: int) -> None:
    if version in stack:
        while stack[-1] != version:
            stack.pop()
    else:
        stack.append(version)


def _alias(
    model: RegisteredModel, alias: str, existing: set[int], problems: list[str]
) -> int | None:
    version = model.aliases.get(alias)
    if version is None or version in existing:
        return version
    problems.append(f"the alias {alias} is of version {version}, which is not registered")
    return None


def _rollout(model: RegisteredModel, existing: set[int], problems: list[str]) -> Rollout | None:
    rollout = _read(Rollout, model.tags.get(ROLLOUT_TAG), ROLLOUT_TAG, problems)
    # A promotion that was cut off before its last write: the rollout is over.
    if rollout is None or rollout.version == model.aliases.get(CHAMPION):
        return None
    if rollout.version not in existing:
        problems.append(f"the rollout is of version {rollout.version}, which is not registered")
        return None
    return rollout


def _version_state(entry: RegisteredVersion, problems: list[str]) -> VersionState:
    def text(tag: str) -> str | None:
        return sentence(entry.tags[tag]) if tag in entry.tags else None

    return VersionState(
        entry,
        _gates(entry, problems),
        text(APPROVAL_TAG),
        text(LICENCE_TAG),
        text(ADOPTED_TAG),
        text(REFUSED_TAG),
        text(ABORTED_TAG),
    )


def _gates(entry: RegisteredVersion, problems: list[str]) -> Gates | None:
    given = {
        key.removeprefix(GATE_PREFIX): value
        for key, value in entry.tags.items()
        if key.startswith(GATE_PREFIX)
    }
    if "verdict" not in given:
        return None
    what = f"tags {GATE_PREFIX}* of version {entry.version}"
    return _checked(lambda: Gates.model_validate(given), what, problems)


def _changes(tags: Mapping[str, str], problems: list[str]) -> Iterator[DatedChange]:
    keys = sorted(key for key in tags if key.startswith(AUDIT_PREFIX))
    for key in keys[-MAX_CHANGES:]:
        at = _time(key.removeprefix(AUDIT_PREFIX))
        if at is None:
            problems.append(f"the tag {quoted(key)} has no time; it is left out")
            continue
        change = _read(Change, tags[key], key, problems)
        if change is not None:
            yield DatedChange(at, change)


def _syncs(tags: Mapping[str, str], problems: list[str]) -> Iterator[tuple[str, SyncStatus]]:
    keys = sorted(key for key in tags if key.startswith(SYNC_PREFIX))
    if len(keys) > MAX_INSTANCES:
        problems.append(f"{len(keys)} tags {SYNC_PREFIX}*; {MAX_INSTANCES} of them are read")
    for key in keys[:MAX_INSTANCES]:
        instance = key.removeprefix(SYNC_PREFIX)
        if not is_name(instance):
            problems.append(f"the tag {quoted(key)} names no instance; it is left out")
            continue
        status = _read(SyncStatus, tags[key], key, problems)
        if status is not None:
            yield instance, status


def _time(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, f"{_TIME}Z").replace(tzinfo=UTC)
    except ValueError:
        return None


_R = TypeVar("_R", bound=_Record)


def _read(kind: type[_R], text: str | None, tag: str, problems: list[str]) -> _R | None:
    if text is None:
        return None
    if len(text) > MAX_VALUE_CHARACTERS:
        problems.append(f"the tag {quoted(tag)} has {len(text)} characters; it is left out")
        return None
    return _checked(lambda: kind.model_validate_json(text), f"tag {quoted(tag)}", problems)


def _checked(read: Callable[[], _R], what: str, problems: list[str]) -> _R | None:
    try:
        return read()
    except ValidationError as error:
        first: Any = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        problems.append(sentence(f"the {what} cannot be read ({field}: {first['msg']})"))
        return None
