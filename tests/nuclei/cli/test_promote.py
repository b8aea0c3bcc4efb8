"""`nuclei promote`, `rollback`, `diff` and `models` on a registry."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nuclei.cli.app import app
from nuclei.errors import (
    Conflict,
    EngineUnavailable,
    InvalidData,
    InvalidOption,
    ModelNotFound,
    VersionRefused,
)
from nuclei.inference.contract import Contract
from serving.promotion.changes import abort, promote, record_gates, report_status
from serving.promotion.state import SyncStatus
from tests.serving.promotion.registries import MODEL, Filled
from tests.shipped import GRAPH, VERSION


@pytest.fixture
def nuclei(filled: Filled) -> Callable[..., Result]:
    def run(*arguments: object) -> Result:
        to = ("--tracking-uri", filled.registry.tracking_uri)
        return CliRunner().invoke(app, [*map(str, arguments), *to], env={"COLUMNS": "120"})

    return run


def report(filled: Filled, champion: int | None) -> None:
    """A sync process says what it serves."""
    now = datetime.now(UTC)
    loaded = {} if champion is None else {champion: now}
    status = SyncStatus(loaded=loaded, champion=champion, at=now)
    report_status(filled.registry, filled.state(), "host-1", status)


def test_promotes_and_rolls_back(filled: Filled, nuclei: Callable[..., Result]) -> None:
    assert nuclei("promote", "unet", 1).output == "unet 1: it is the champion\n"
    assert nuclei("promote", "nuclei-unet", 2, "--why", "better").exit_code == 0
    assert nuclei("promote", "unet", 2).output == "unet 2: it is the champion, as before\n"
    assert nuclei("rollback", "unet").output == "unet 2 is taken back; the champion is 1\n"
    assert filled.aliases() == {"champion": 1}


def test_a_rollout_has_the_phases_that_were_asked_for(
    filled: Filled, nuclei: Callable[..., Result]
) -> None:
    result = nuclei("promote", "unet", 2, "--shadow", "10%", "--for", "50frames", "--canary", 0.05)
    assert result.output == "unet 2: its rollout has begun\n"
    phases = [(one.mode, one.fraction, one.frames) for one in filled.state().rollout.phases]
    assert phases == [("shadow", 0.1, 50), ("canary", 0.05, 50)]
    assert isinstance(nuclei("promote", "unet", 3).exception, Conflict)
    assert nuclei("rollback", "unet").exit_code == 0
    assert filled.state().rollout is None


@pytest.mark.parametrize(
    "options",
    [
        ("--shadow", "0%"),
        ("--shadow", "101%"),
        ("--canary", "nan"),
        ("--canary", "half"),
        ("--shadow", "10%", "--for", "0"),
        ("--shadow", "10%", "--for", "9" * 5000),
        ("--shadow", "10%", "--for", "\N{SUPERSCRIPT TWO}"),
        ("--for", "500"),
    ],
)
def test_phases_that_cannot_be_are_refused(
    filled: Filled, nuclei: Callable[..., Result], options: tuple[str, ...]
) -> None:
    assert isinstance(nuclei("promote", "unet", 2, *options).exception, InvalidOption)
    assert filled.registry.model(MODEL).tags == {}


def test_waits_until_every_live_process_serves_it(
    filled: Filled, nuclei: Callable[..., Result]
) -> None:
    report(filled, None)
    timer = threading.Timer(2.0, report, (filled, 2))
    timer.start()
    result = nuclei("promote", "unet", 2, "--wait")
    timer.join()
    assert result.exit_code == 0
    assert "0 of 1 sync processes serve it; not yet: host-1" in result.output
    assert result.output.endswith("unet 2 answers\n")


def test_waiting_ends_when_nothing_can_come(filled: Filled, nuclei: Callable[..., Result]) -> None:
    assert isinstance(nuclei("promote", "unet", 1, "--wait").exception, EngineUnavailable)
    report(filled, 1)
    nuclei("promote", "unet", 2, "--shadow", "10%")
    rollout = filled.state().rollout
    timer = threading.Timer(2.0, abort, (filled.registry, MODEL, rollout, "too few nuclei"))
    timer.start()
    raised = nuclei("promote", "unet", 2, "--shadow", "10%", "--wait").exception
    timer.join()
    assert isinstance(raised, VersionRefused)
    assert "too few nuclei" in str(raised)


def test_a_verdict_without_a_comparison_is_shown(
    filled: Filled, nuclei: Callable[..., Result], tmp_path: Path
) -> None:
    judged = filled.state().find(2).gates
    record_gates(filled.registry, MODEL, 2, judged.model_copy(update={"against": "none"}))
    assert "compared it with no version" in nuclei("promote", "unet", 2).output
    assert "compared it with no version" not in nuclei("promote", "unet", 1).output
    rows = table(nuclei("models", "--repository", tmp_path).output)
    assert rows["nuclei-unet 2"][3] == "passed, compared with no version"
    assert rows["nuclei-unet 1"][3] == "passed"


def test_models_shows_an_adopted_version_and_short_scores(
    filled: Filled, nuclei: Callable[..., Result], repository: Path
) -> None:
    version = filled.registry.register(MODEL, repository / GRAPH, {"adopted": "ab" * 32})
    shown = nuclei("models", "--repository", repository).output
    assert table(shown)[f"nuclei-unet {version}"][3:7:3] == ["adopted, abababababab", ""]
    (exported,) = [row for row in map(cells, shown.splitlines()) if row[0] == "unet"]
    assert [name.split()[0] for name in exported[3].split(", ")] == ["dsb_score", "tta/dsb_score"]


def test_models_prints_the_card_of_a_served_or_registered_version(
    filled: Filled,
    nuclei: Callable[..., Result],
    repository: Path,
    shipped_artifacts: Path,
    tmp_path: Path,
) -> None:
    served = nuclei("models", "--card", "unet", "--repository", repository).output
    assert served.startswith(f"# unet version {VERSION}\n")
    scores = Contract.read(shipped_artifacts / "contract.json").validation
    assert f"| all | {scores['dsb_score']:.3f} | {scores['tta/dsb_score']:.3f} |" in served
    files = tmp_path / "files"
    files.mkdir()
    (files / "contract.json").write_text(Contract("unet", licence="MIT").to_json())
    name = f"{MODEL}:{filled.registry.register(MODEL, files, {})}"
    registered = nuclei("models", "--card", name, "--repository", repository).output
    assert "- Licence: MIT\n" in registered
    unusable = nuclei("models", "--card", f"{MODEL}:1", "--repository", repository)
    assert isinstance(unusable.exception, InvalidData)
    absent = nuclei("models", "--card", "none", "--repository", repository)
    assert isinstance(absent.exception, ModelNotFound)


def test_models_shows_what_is_so(
    filled: Filled, nuclei: Callable[..., Result], tmp_path: Path
) -> None:
    promote(filled.registry, MODEL, 1, why="first", who="ada@lab")
    report(filled, 1)
    nuclei("promote", "unet", 2, "--canary", "5%")
    filled.registry.set_tags(MODEL, {"sync.refused": "corrupt\x1b[2J", "gate.reason": "x"}, 3)
    filled.registry.set_tags(MODEL, {"rollout.x": "y" * 90_000, "sync.bad": "{"})
    shown = nuclei("models", "--repository", tmp_path).output
    rows = table(shown)
    assert rows["nuclei-unet 1"][1] == "champion"
    assert rows["nuclei-unet 1"][4].startswith("host-1 since 20")
    assert rows["nuclei-unet 1"][5] == "95 %"
    assert rows["nuclei-unet 2"][1:6:4] == ["challenger", "canary 5 %, phase 1 of 1"]
    assert rows["nuclei-unet 3"][3].startswith("could not be served: corrupt")
    assert "\x1b" not in shown
    assert "ada@lab" in shown
    assert "first" in shown
    assert "'sync.bad' cannot be read" in shown
    assert ".lock" not in shown


def table(shown: str) -> dict[str, list[str]]:
    """The rows of the registered versions."""
    return {row[0]: row for row in map(cells, shown.splitlines()) if len(row) == 7}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip()[1:-1].split("│")]


def test_models_names_a_model_that_is_not_there(nuclei: Callable[..., Result]) -> None:
    assert isinstance(nuclei("models", "--model", "none").exception, ModelNotFound)


def test_diff_shows_what_differs(filled: Filled, nuclei: Callable[..., Result]) -> None:
    promote(filled.registry, MODEL, 1)
    for version in (1, 2):
        run_id = filled.state().find(version).registered.run_id
        filled.client.log_metric(run_id, "final/dsb_score", 0.5 + version / 100)
        filled.client.set_tag(run_id, "data_fingerprint", f"{version}" * 64)
        filled.client.set_tag(run_id, "mlflow.note", "not ours")
    filled.registry.set_tags(MODEL, {"notes": "\x1b[2J" * 1000}, 2)
    result = nuclei("diff", "champion", 2)
    rows = [cells(line) for line in result.output.splitlines()]
    assert ["score", "dsb_score", "0.5100", "0.5200", "+0.01"] in rows
    assert ["parameter", "epochs", "10", "20", "+10"] in rows
    assert ["gates", "verdict", "passed", "passed", ""] in rows
    assert not any(row[1:2] == ["seed"] for row in rows)
    assert "1 (champion)" in result.output
    assert "not of the same images" in result.output
    assert "\x1b" not in result.output
    assert "not ours" not in result.output
    rows = [cells(line) for line in nuclei("diff", 1, 2, "--all").output.splitlines()]
    assert ["parameter", "seed", "0", "0", ""] in rows


@pytest.mark.parametrize("side", ["9", "challenger", "\x1b[2J", "9" * 5000])
def test_diff_names_what_is_not_there(nuclei: Callable[..., Result], side: str) -> None:
    raised = nuclei("diff", 1, side).exception
    assert isinstance(raised, ModelNotFound)
    assert len(str(raised)) < 300
