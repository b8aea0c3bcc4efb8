"""What the registry says about a model, also when others filled it."""

from datetime import UTC, datetime, timedelta

import pytest

from nuclei.errors import ModelNotFound
from serving.promotion.state import (
    MAX_CHANGES,
    MAX_PROBLEMS,
    Change,
    Gates,
    ModelState,
    Phase,
    Rollout,
    SyncStatus,
    audit_key,
    model_state,
    next_time,
)
from serving.registry import RegisteredModel, RegisteredVersion

NOW = datetime(2026, 11, 26, 22, 0, tzinfo=UTC)
DIGEST = "sha256:" + "0" * 64


def version(number: int, **tags: str) -> RegisteredVersion:
    tags = {key.replace("__", "."): value for key, value in tags.items()}
    return RegisteredVersion("nuclei-unet", number, (), NOW, tags, None)


def state(
    tags: dict[str, str] | None = None,
    aliases: dict[str, int] | None = None,
    versions: tuple[RegisteredVersion, ...] = (version(3), version(2), version(1)),
) -> ModelState:
    return model_state(RegisteredModel("nuclei-unet", aliases or {}, tags or {}, versions, NOW, ""))


def trail(*changes: tuple[str, int | None, int | None]) -> dict[str, str]:
    """Tags of an audit trail: action, from, to."""
    tags = {}
    at = NOW
    for action, before, after in changes:
        change = Change(action=action, who="me", from_version=before, to_version=after)
        tags[audit_key(at)] = change.to_tag()
        at = next_time(NOW, at)
    return tags


def test_a_model_without_tags_has_no_state() -> None:
    found = state()
    assert (found.champion, found.challenger, found.rollout) == (None, None, None)
    assert (found.changes, found.syncs, found.problems) == ((), {}, ())
    assert found.find(3).gates is None


def test_what_is_written_is_read() -> None:
    rollout = Rollout(
        version=3,
        phases=(Phase(mode="shadow", fraction=0.1, frames=500),),
        who="me@here",
        since=NOW,
        why="better on histology",
    )
    status = SyncStatus(loaded={2: NOW, 3: NOW}, champion=2, at=NOW)
    gates = Gates(verdict="passed", reason="all 6 passed", run_id="ab12", digest=DIGEST)
    found = state(
        {"rollout": rollout.to_tag(), "sync.host-1": status.to_tag()},
        {"champion": 2, "challenger": 3},
        (version(3, **{k.replace(".", "__"): v for k, v in gates.to_tags().items()}), version(2)),
    )
    assert found.problems == ()
    assert found.rollout == rollout
    assert found.syncs == {"host-1": status}
    assert found.find(3).gates == gates
    with pytest.raises(ModelNotFound, match="no version 9; the newest are: 3, 2"):
        found.find(9)


def test_a_sync_process_that_is_silent_is_not_live() -> None:
    status = SyncStatus(loaded={}, at=NOW)
    found = state({"sync.a": status.to_tag()})
    assert found.live_syncs(NOW + timedelta(seconds=80)) == {"a": status}
    assert found.live_syncs(NOW + timedelta(seconds=100)) == {}


@pytest.mark.parametrize(
    ("changes", "champion", "former"),
    [
        ([], 2, []),
        ([("adopt", None, 1), ("promote", 1, 2), ("promote", 2, 3)], 3, [2, 1]),
        # A rollback pops: a second one goes further back, not forward again.
        ([("adopt", None, 1), ("promote", 1, 2), ("promote", 2, 3), ("rollback", 3, 2)], 2, [1]),
        # A rollout that did not end in a promotion.
        ([("adopt", None, 1), ("challenge", 1, 2), ("abort", 2, 1)], 1, []),
        # The alias was moved by hand: forward, back.
        ([("adopt", None, 1), ("promote", 1, 2)], 3, [2, 1]),
        ([("adopt", None, 1), ("promote", 1, 2)], 1, []),
        # Promoted again after it was champion before.
        ([("adopt", None, 1), ("promote", 1, 2), ("promote", 2, 1)], 1, [2, 1]),
        # A version that was deleted is passed over.
        ([("adopt", None, 1), ("promote", 1, 9), ("promote", 9, 3)], 3, [1]),
    ],
)
def test_rollbacks_go_back_along_the_trail(
    changes: list[tuple[str, int | None, int | None]], champion: int, former: list[int]
) -> None:
    found = state(trail(*changes), {"champion": champion})
    assert len(found.changes) == len(changes)
    assert found.former_champions() == former


def test_an_entry_sorts_behind_the_last_whatever_the_clock_says() -> None:
    for now in (NOW, NOW - timedelta(hours=1)):
        assert audit_key(next_time(now, NOW)) > audit_key(NOW)


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("rollout", "{"),
        ("rollout", "null"),
        ("rollout", "[" * 10_000),
        ("rollout", "x" * 100_000),
        ("rollout", '{"version": 1e999, "phases": [], "who": "x", "since": "now"}'),
        ("rollout", Rollout.model_construct(version=-1).to_tag()),
        ("sync.a", '{"loaded": {"../x": "2026-01-01T00:00:00Z"}, "at": "2026-01-01T00:00:00Z"}'),
        ("sync.a", '{"loaded": {}, "at": "2026-01-01T00:00:00"}'),
        ("audit.20261126T220000.000Z", '{"action": "delete", "who": "x"}'),
        ("audit.../../etc", Change(action="adopt", who="x").to_tag()),
        ("audit.20261326T220000.000Z", Change(action="adopt", who="x").to_tag()),
    ],
)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_what_is_no_value_counts_as_absent_and_is_named(tag: str, value: str) -> None:
    found = state({tag: value}, {"champion": 2})
    assert (found.rollout, found.syncs, found.changes) == (None, {}, ())
    (problem,) = found.problems
    assert tag in problem
    assert len(problem) < 1000


def test_gates_without_a_digest_are_none() -> None:
    found = state(versions=(version(1, gate__verdict="passed"),))
    assert found.find(1).gates is None
    assert "digest" in found.problems[0]
    found = state(versions=(version(1, gate__verdict="maybe", gate__digest=DIGEST),))
    assert found.find(1).gates is None


def test_an_alias_of_a_version_that_is_gone_is_named() -> None:
    found = state(aliases={"champion": 9})
    assert found.champion is None
    assert found.problems == ("the alias champion is of version 9, which is not registered",)


def test_a_registry_that_somebody_filled_is_read_in_part() -> None:
    tags = {f"audit.20260101T000000.{n:06d}Z": "x" * 200 for n in range(3 * MAX_CHANGES)}
    tags |= {f"sync.{n}": "{}" for n in range(1000)}
    found = state(tags)
    assert len(found.problems) == MAX_PROBLEMS
    text = Change(action="promote", who="\x1b[2J\n", why="\u202e").to_tag()
    (entry,) = state({audit_key(NOW): text}).changes
    assert entry.change.who == r"\x1b[2J\n"
    assert entry.change.why == r"\u202e"
    assert state(versions=(version(1, approval="\x1b" * 10**6),)).find(1).approval.isprintable()


@pytest.mark.parametrize("instance", ["", "a/b", "../x", "x" * 65, "\x1b"])
def test_an_instance_has_a_name(instance: str) -> None:
    found = state({f"sync.{instance}": SyncStatus(loaded={}, at=NOW).to_tag()})
    assert found.syncs == {}
    assert "names no instance" in found.problems[0]
