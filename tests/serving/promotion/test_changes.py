"""Promotions, rollbacks and rollouts, as they come out in the registry."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from nuclei.errors import Conflict, ModelNotFound, VersionRefused
from serving.promotion.changes import (
    abort,
    adopt,
    advance,
    promote,
    record_gates,
    refuse,
    report_status,
    rollback,
)
from serving.promotion.state import Phase, SyncStatus
from serving.registry import RegisteredModel, Registry
from tests.serving.promotion.registries import MODEL, Filled

PHASES = (
    Phase(mode="shadow", fraction=0.1, frames=500),
    Phase(mode="canary", fraction=0.05, frames=200),
)


def test_the_first_champion_is_adopted_the_next_promoted_and_rolled_back(filled: Filled) -> None:
    assert adopt(filled.registry, MODEL, 1, "was served", who="sync@host")
    assert not adopt(filled.registry, MODEL, 2)
    assert promote(filled.registry, MODEL, 2, why="better", who="ada@lab")
    assert promote(filled.registry, "unet", 3)
    assert filled.aliases() == {"champion": 3}
    assert rollback(filled.registry, "unet", "worse on histology") == (3, 2)
    assert rollback(filled.registry, MODEL) == (2, 1)
    assert filled.aliases() == {"champion": 1}
    with pytest.raises(ModelNotFound, match="no champion before 1"):
        rollback(filled.registry, MODEL)
    assert filled.actions() == [
        ("adopt", None, 1),
        ("promote", 1, 2),
        ("promote", 2, 3),
        ("rollback", 3, 2),
        ("rollback", 2, 1),
    ]
    changes = [entry.change for entry in filled.state().changes]
    assert [(changes[n].who, changes[n].why) for n in (0, 1)] == [
        ("sync@host", "was served"),
        ("ada@lab", "better"),
    ]
    assert "@" in changes[2].who
    assert changes[3].why == "worse on histology"
    assert abs(filled.state().changes[-1].at - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_promotion_made_again_changes_nothing(filled: Filled) -> None:
    assert promote(filled.registry, MODEL, 2)
    before = filled.registry.model(MODEL)
    assert not promote(filled.registry, MODEL, 2)
    assert not promote(filled.registry, MODEL, 2, PHASES)
    assert filled.registry.model(MODEL) == before


def test_a_rollout_goes_through_its_phases_and_ends_in_a_promotion(filled: Filled) -> None:
    adopt(filled.registry, MODEL, 1)
    assert promote(filled.registry, MODEL, 2, PHASES, why="new data", who="ada@lab")
    assert not promote(filled.registry, MODEL, 2, PHASES)
    started = filled.state().rollout
    assert (started.version, started.phases, started.phase) == (2, PHASES, 0)
    assert filled.aliases() == {"champion": 1, "challenger": 2}
    assert not advance(filled.registry, MODEL, started)
    second = filled.state().rollout
    assert (second.phase, second.current) == (1, PHASES[1])
    assert second.since > started.since
    with pytest.raises(Conflict, match="another one by now"):
        advance(filled.registry, MODEL, started)
    assert advance(filled.registry, MODEL, second)
    assert filled.aliases() == {"champion": 2}
    assert filled.state().rollout is None
    assert filled.actions() == [("adopt", None, 1), ("challenge", 1, 2), ("promote", 1, 2)]
    assert filled.state().changes[-1].change.why == "new data"


@pytest.mark.parametrize(("version", "phases"), [(2, ()), (3, ()), (3, PHASES), (2, PHASES[:1])])
def test_while_a_rollout_is_under_way_no_other_is_begun(
    filled: Filled, version: int, phases: tuple[Phase, ...]
) -> None:
    promote(filled.registry, MODEL, 2, PHASES, who="ada@lab")
    before = filled.registry.model(MODEL)
    with pytest.raises(Conflict, match=r"rollout of version 2 by ada@lab.*nuclei rollback"):
        promote(filled.registry, MODEL, version, phases)
    assert filled.registry.model(MODEL) == before


def test_a_rollout_that_is_aborted_is_not_begun_again_before_new_gates(filled: Filled) -> None:
    adopt(filled.registry, MODEL, 1)
    promote(filled.registry, MODEL, 2, PHASES)
    rollout = filled.state().rollout
    abort(filled.registry, MODEL, rollout, "AP@.5 with the champion 0.31, at least 0.80 expected")
    assert filled.aliases() == {"champion": 1}
    assert filled.state().rollout is None
    assert filled.actions()[-1] == ("abort", 2, 1)
    with pytest.raises(VersionRefused, match=r"failed: AP@\.5.*nuclei gate 2"):
        promote(filled.registry, MODEL, 2)
    with pytest.raises(Conflict, match="another one by now"):
        abort(filled.registry, MODEL, rollout, "again")
    record_gates(filled.registry, MODEL, 2, filled.state().find(2).gates)
    assert promote(filled.registry, MODEL, 2)


def test_a_rollback_during_a_rollout_ends_it(filled: Filled) -> None:
    adopt(filled.registry, MODEL, 1)
    promote(filled.registry, MODEL, 2, PHASES)
    assert rollback(filled.registry, MODEL, "wrong version") == (2, 1)
    assert filled.aliases() == {"champion": 1}
    assert filled.actions()[-1] == ("abort", 2, 1)
    assert promote(filled.registry, MODEL, 2, PHASES)


def test_a_version_that_was_refused_is_neither_promoted_nor_rolled_back_to(filled: Filled) -> None:
    for version in (1, 2, 3):
        promote(filled.registry, MODEL, version)
    refuse(filled.registry, MODEL, 2, "the probe differs in 40 % of its pixels\x1b[2J")
    refuse(filled.registry, MODEL, 4, "x" * 10**6)
    with pytest.raises(VersionRefused, match=r"could not be served: x+ \.\.\. x+.*nuclei gate 4"):
        promote(filled.registry, MODEL, 4)
    assert "\x1b" not in filled.state().find(2).registered.tags["sync.refused"]
    assert rollback(filled.registry, MODEL) == (3, 1)


def test_a_challenger_that_was_refused_meanwhile_does_not_become_champion(filled: Filled) -> None:
    promote(filled.registry, MODEL, 1)
    promote(filled.registry, MODEL, 2, PHASES[:1])
    refuse(filled.registry, MODEL, 2, "corrupt")
    with pytest.raises(VersionRefused, match="corrupt"):
        advance(filled.registry, MODEL, filled.state().rollout)
    assert filled.aliases() == {"champion": 1, "challenger": 2}


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"gate.verdict": "refused", "gate.reason": "too slow"}, "refused .* 2: too slow"),
        (
            {"gate.verdict": "maybe"},
            "has not passed the gates; run `nuclei gate 2 --model nuclei-unet`",
        ),
        ({"gate.digest": "0" * 64}, "not those that passed the gates"),
    ],
)
def test_what_the_gates_did_not_pass_is_not_promoted(
    filled: Filled, tags: dict[str, str], message: str
) -> None:
    filled.registry.set_tags(MODEL, tags, 2)
    with pytest.raises(VersionRefused, match=message):
        promote(filled.registry, MODEL, 2)
    assert filled.aliases() == {}


def test_what_is_not_there_is_not_promoted(filled: Filled) -> None:
    with pytest.raises(ModelNotFound, match="no version 9; the newest are: 4, 3, 2, 1"):
        promote(filled.registry, MODEL, 9)
    with pytest.raises(ModelNotFound, match="nuclei-none"):
        promote(filled.registry, "none", 1)


def test_an_alias_that_was_moved_by_hand_is_noted_and_rolled_back_from(filled: Filled) -> None:
    promote(filled.registry, MODEL, 1)
    filled.client.set_registered_model_alias(MODEL, "champion", "3")
    assert rollback(filled.registry, MODEL) == (3, 1)
    assert filled.actions() == [("promote", None, 1), ("adopt", 1, 3), ("rollback", 3, 1)]


def test_a_champion_by_hand_that_passed_no_gates_is_not_rolled_back_to(filled: Filled) -> None:
    promote(filled.registry, MODEL, 1)
    filled.registry.delete_tag(MODEL, "gate.verdict", 3)
    filled.registry.set_alias(MODEL, "champion", 3)
    promote(filled.registry, MODEL, 2)
    assert rollback(filled.registry, MODEL) == (2, 1)


def test_an_alias_of_a_version_that_is_gone_is_replaced(
    filled: Filled, sql: Callable[..., None]
) -> None:
    promote(filled.registry, MODEL, 1)
    sql("UPDATE registered_model_aliases SET version = 77")
    assert filled.state().problems
    assert promote(filled.registry, MODEL, 2)
    assert filled.aliases() == {"champion": 2}


@pytest.mark.parametrize("value", ["{", "\x00", '{"version": "2"}', "x" * 10**5])
def test_a_rollout_that_cannot_be_read_is_none(
    filled: Filled, sql: Callable[..., None], value: str
) -> None:
    filled.registry.set_tags(MODEL, {"rollout": "{}"})
    sql("UPDATE registered_model_tags SET value = ? WHERE key = 'rollout'", value)
    assert promote(filled.registry, MODEL, 2)
    assert "rollout" not in filled.registry.model(MODEL).tags


def test_changes_that_were_based_on_an_earlier_state_are_left_off(filled: Filled) -> None:
    promote(filled.registry, MODEL, 1)
    promote(filled.registry, MODEL, 2, PHASES)
    seen = filled.state().rollout
    changed = seen.model_copy(update={"since": seen.since - timedelta(seconds=1)})
    with pytest.raises(Conflict):
        advance(filled.registry, MODEL, changed)


class Killed(BaseException):
    """The process ends: no `except Exception` sees it."""


class Dying(Registry):
    """A registry whose process is killed before a write."""

    def __init__(self, alive: Registry, writes: int) -> None:
        super().__init__(alive.tracking_uri)
        self._client = alive._connected()
        self._left = writes

    def _connected(self):  # type: ignore[no-untyped-def]
        client = super()._connected()
        dying = self

        class Client:
            def __getattr__(self, name: str) -> object:
                if name.startswith(("set_", "delete_", "create_", "rename_")):
                    dying._left -= 1
                    if dying._left < 0:
                        raise Killed
                return getattr(client, name)

        return Client()


CHANGES: dict[str, Callable[[Registry], object]] = {
    "promote": lambda registry: promote(registry, MODEL, 3, who="me"),
    "roll out": lambda registry: promote(registry, MODEL, 3, PHASES, who="me"),
    "rollback": lambda registry: rollback(registry, MODEL, who="me"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_was_killed_anywhere_is_completed_by_making_it_again(
    filled: Filled, sql: Callable[..., None], change: str
) -> None:
    for version in (1, 2):
        promote(filled.registry, MODEL, version)
    started = filled.registry.model(MODEL)
    CHANGES[change](filled.registry)
    expected = (filled.aliases(), filled.actions(), filled.state().rollout is None)
    for writes in range(1, 20):
        reset(filled, started)
        try:
            CHANGES[change](Dying(filled.registry, writes))
        except Killed:
            sql("UPDATE registered_models SET creation_time = creation_time - 60000")
            # A rollback that was made is not to be made again: that would be one step further back.
            if change != "rollback" or filled.aliases() == started.aliases:
                CHANGES[change](filled.registry)
            assert (filled.aliases(), filled.actions(), filled.state().rollout is None) == expected
        else:
            break
    assert writes >= 4


def test_a_rollout_whose_last_write_was_cut_off_is_over(filled: Filled) -> None:
    for version in (1, 2):
        promote(filled.registry, MODEL, version)
    promote(filled.registry, MODEL, 3, PHASES)
    filled.registry.set_alias(MODEL, "champion", 3)
    assert filled.state().rollout is None
    assert not promote(filled.registry, MODEL, 3)
    promote(filled.registry, MODEL, 4)
    assert filled.aliases() == {"champion": 4}


def test_a_rollout_of_a_version_that_is_gone_is_none(filled: Filled) -> None:
    promote(filled.registry, MODEL, 1)
    promote(filled.registry, MODEL, 2, PHASES)
    filled.client.delete_model_version(MODEL, "2")
    assert filled.state().rollout is None
    assert "version 2, which is not registered" in " ".join(filled.state().problems)
    assert promote(filled.registry, MODEL, 3)


def reset(filled: Filled, to: RegisteredModel) -> None:
    """Give the model the aliases and tags that it had."""
    now = filled.registry.model(MODEL)
    for alias in now.aliases:
        filled.registry.delete_alias(MODEL, alias)
    for alias, version in to.aliases.items():
        filled.registry.set_alias(MODEL, alias, version)
    for tag in set(now.tags) - set(to.tags):
        filled.registry.delete_tag(MODEL, tag)


def test_a_status_is_noted_and_processes_that_have_gone_are_forgotten(filled: Filled) -> None:
    now = datetime.now(UTC)
    status = SyncStatus(loaded={1: now}, champion=1, at=now)
    report_status(
        filled.registry, filled.state(), "old", replace_at(status, now - timedelta(days=2))
    )
    recent = replace_at(status, now - timedelta(hours=1))
    report_status(filled.registry, filled.state(), "quiet", recent)
    report_status(filled.registry, filled.state(), "host-1", status)
    assert set(filled.state().syncs) == {"quiet", "host-1"}
    assert filled.state().live_syncs(now) == {"host-1": status}


def replace_at(status: SyncStatus, at: datetime) -> SyncStatus:
    return status.model_copy(update={"at": at})
