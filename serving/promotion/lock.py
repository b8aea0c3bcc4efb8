"""One change of a model at a time, whoever makes it on whichever machine.

The lock is a registered model without versions, `NAME.lock`: MLflow keeps names unique, so that of
two who create it one wins, on any of its stores. It is held for seconds. One whose holder died is
broken by renaming it to a name that only this holder's lock can get: of two who break it one wins,
and a lock that was taken meanwhile is never broken by mistake. The renamed one stays until the
next is broken, for this reason.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, ValidationError

from nuclei.errors import Conflict, InternalError, ModelNotFound
from serving.promotion.state import Text
from serving.registry import RegisteredModel, Registry

SUFFIX = ".lock"
# A change takes a second; a registry that is slow may take ten.
HOLD_S = 30.0


def is_lock(name: str) -> bool:
    """Whether a registered model is one of ours."""
    return name.endswith(SUFFIX) or f"{SUFFIX}." in name


class _Holder(BaseModel):
    """Who has the lock, as the lock says; the nonce makes each lock unlike any other."""

    model_config = ConfigDict(frozen=True, strict=True)

    who: Text
    nonce: str


class Lock:
    """A lock that is held."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._until = time.monotonic() + HOLD_S / 2

    def is_certain(self) -> bool:
        """Whether nobody can have broken the lock yet."""
        return time.monotonic() < self._until

    def check(self) -> None:
        """Check, before something is written, that nobody can have broken the lock.

        Raises:
            Conflict: it was held for too long.
        """
        if not self.is_certain():
            raise Conflict(
                f"the change of '{self._model}' took longer than {HOLD_S / 2:g} s and was left "
                "off, because the registry is slow; see `nuclei models` for what is so, and try "
                "again"
            )


@contextmanager
def locked(registry: Registry, model: str, who: str) -> Iterator[Lock]:
    """Hold the lock of a model.

    Args:
        registry: of the model.
        model: a registered model.
        who: for the one who comes too late.

    Raises:
        Conflict: somebody else has it; the message says who and since when.
        RegistryUnavailable: the registry does not answer.
    """
    lock = Lock(model)
    holder = _Holder(who=who, nonce=uuid4().hex).model_dump_json()
    _take(registry, model, holder)
    try:
        yield lock
    finally:
        if lock.is_certain():
            registry.delete_model(_name(model))
        else:
            _break(registry, model, holder)


def _take(registry: Registry, model: str, holder: str) -> None:
    for _ in range(10):
        if registry.create_model(_name(model), holder) is not None:
            return
        try:
            found = registry.model(_name(model))
        except ModelNotFound:  # released meanwhile
            continue
        age_s = (_clock(registry, model) - found.created).total_seconds()
        if age_s < HOLD_S:
            raise Conflict(
                f"{_who(found)} is changing '{model}' since {age_s:.0f} s; see what becomes of it "
                "with `nuclei models`, then decide again"
            )
        _break(registry, model, found.description)
    raise Conflict(f"several others are changing '{model}'; see `nuclei models`, then decide again")


def _break(registry: Registry, model: str, holder: str) -> None:
    """Take a lock away from its holder; nothing happens when it is no longer this holder's."""
    nonce = hashlib.sha256(holder.encode()).hexdigest()[:16]
    broken = f"{_name(model)}.broken."
    for name in registry.names(broken):
        if name != f"{broken}{nonce}":
            with suppress(ModelNotFound):
                registry.delete_model(name)
    with suppress(ModelNotFound):
        registry.rename_model(_name(model), f"{broken}{nonce}")


def _clock(registry: Registry, model: str) -> datetime:
    """What time it is for the registry: clocks of machines may differ by more than a lock's age."""
    clocks = f"{_name(model)}.clock."
    name = f"{clocks}{uuid4().hex}"
    now = registry.create_model(name)
    if now is None:
        raise InternalError(f"the registry has a model of the random name {name}")
    registry.delete_model(name)
    # Those of processes that were killed before they got here.
    for left in registry.names(clocks):
        with suppress(ModelNotFound):
            if (now - registry.model(left).created).total_seconds() >= HOLD_S:
                registry.delete_model(left)
    return now


def _name(model: str) -> str:
    return f"{model}{SUFFIX}"


def _who(lock: RegisteredModel) -> str:
    try:
        return _Holder.model_validate_json(lock.description).who
    except ValidationError:
        return "somebody"
