"""What a gateway tells of the registry of model versions, and how it is asked to change it.

`/v1/registry` speaks it to callers. The same objects go between the gateway and the process that
has the registry open (`serving.promotion.administration`).
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from nuclei.names import MAX_VERSION
from serving.promotion.verdict import Gate

PATH = "/v1/registry"
# Of the process: where its registry is.
URI_VARIABLE = "NUCLEI_REGISTRY"
# Of one model, the newest; the registry has all.
MAX_VERSIONS = 50
MAX_CHANGES = 10
MAX_WHY = 500

Version = Annotated[int, Field(ge=1, le=MAX_VERSION)]
Why = Annotated[str, Field(max_length=MAX_WHY)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Verdict(_Part):
    """What the gates said of a version.

    Attributes:
        passed: whether all did.
        reason: one sentence.
        against: the version that it was compared with, `nuclei-unet 3`; `none` for none.
        evaluation_set: `NAME@sha256:...`: the images of the accuracy gate.
    """

    passed: bool
    reason: str
    against: str
    evaluation_set: str


class RegisteredVersion(_Part):
    """A version of a registered model.

    Attributes:
        version: its number.
        registered: when, seconds since 1970.
        gates: None when it was never judged.
        adopted: whether it was served before there were gates.
        refusal: why it cannot be promoted, a sentence; None when its tags say that it can.
        licence, approval: as noted; None when nobody did.
        scores: of its training, by name.
        loaded: how many of the live sync processes have it loaded.
    """

    version: Version
    registered: float
    gates: Verdict | None
    adopted: bool
    refusal: str | None
    licence: str | None
    approval: str | None
    scores: dict[str, str]
    loaded: int


class Trial(_Part):
    """A rollout under way, as the registry wants it.

    Attributes:
        version: the challenger.
        mode: `shadow`: its answers are only compared; `canary`: it answers some callers.
        fraction: of the frames or callers.
        phase, phases: which of how many, from 1.
    """

    version: Version
    mode: Literal["shadow", "canary"]
    fraction: float
    phase: int
    phases: int


class Return(_Part):
    """What a rollback would do, or shall do.

    Attributes:
        version: that is taken back: the challenger on trial, or else the champion.
        champion: the version that answers then.
    """

    version: Version
    champion: Version


class DatedChange(_Part):
    """An entry of the audit trail: `serving.promotion.state.Change`, and when, since 1970."""

    at: float
    action: str
    from_version: Version | None
    to_version: Version | None
    why: str


class ModelReport(_Part):
    """A registered model.

    Attributes:
        name: `nuclei-unet`.
        champion: the version that is to answer; None before there is one.
        trial: of a challenger; None when there is none.
        rollback: what a rollback would do; None when there is nothing to go back to.
        processes: how many sync processes spoke recently.
        versions: the newest first, at most `MAX_VERSIONS` and the champion.
        changes: the newest first, at most `MAX_CHANGES`.
        problems: what of the registry could not be used, one sentence each.
    """

    name: str
    champion: Version | None
    trial: Trial | None
    rollback: Return | None
    processes: int
    versions: list[RegisteredVersion]
    changes: list[DatedChange]
    problems: list[str]


class RegistryReport(_Part):
    """All models of the registry.

    Attributes:
        models: by name.
        writable: whether this gateway changes them for whoever has the administrator's token.
    """

    models: list[ModelReport]
    writable: bool = False


class GatesReport(_Part):
    """Each gate of one version."""

    gates: list[Gate]


class Promotion(_Part):
    """Make a version the champion, in the place of the one that the caller has seen there.

    Attributes:
        version: that is to answer.
        champion: that answers now, as far as the caller knows; None for none.
        why: for the audit trail.
    """

    version: Version
    champion: Version | None
    why: Why = ""


class Rollback(Return):
    """Go back, from and to the versions that the caller has seen.

    Attributes:
        why: for the audit trail.
    """

    why: Why = ""


class Changed(_Part):
    """What became of a promotion or a rollback.

    Attributes:
        changed: False when it was so already.
        champion: the version that is to answer.
    """

    changed: bool
    champion: Version


class Progress(_Part):
    """How far a version is on its way to the callers.

    Attributes:
        doing: what is being done, a sentence; None once every sync process serves it.
    """

    doing: str | None


class Request(_Part):
    """What the gateway asks of the process.

    Attributes:
        action: what to do.
        model: name of a registered model or of its family; empty for all.
        version: of the model, for `gates` and `progress`.
        promotion, rollback: of the action of this name.
        caller: address of whoever asked, for the audit trail.
    """

    action: Literal["report", "gates", "progress", "promote", "rollback"]
    model: str = ""
    version: Version | None = None
    promotion: Promotion | None = None
    rollback: Rollback | None = None
    caller: str = ""


class Answer(_Part):
    """What the process says: a result as JSON, or the class and the message of a NucleiError."""

    result: str = ""
    error: str = ""
    message: str = ""
