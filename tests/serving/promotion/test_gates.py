"""The gates of registered versions; without Triton, except where its budget is measured."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from mlflow import MlflowClient

from nuclei.errors import VersionRefused
from nuclei.evaluation.left_out import LEFT_OUT_FILE, LeftOut
from nuclei.evaluation.unseen import TRAINED_ON_FILE, Trained, image_digest
from nuclei.inference.contract import CONTRACT_FILE, MAX_BYTES
from nuclei.inference.reference import REFERENCE_FILES, Reference
from nuclei.quality.reference import Group
from serving.promotion.accuracy import Bounds, EvaluationSet
from serving.promotion.gates import Judge, Judgement, Policy, record
from serving.promotion.report import page
from serving.promotion.state import VersionState, read_state
from serving.promotion.verdict import Gate
from serving.registry import Registry
from tests.serving.promotion.made_models import CONTRACT, MODEL, discs, register, write_artifacts

MODALITIES = ["fluorescence"] * 4 + ["histology"] * 2
IMAGES = [discs(f"{modality}-{n}", modality, seed=n) for n, modality in enumerate(MODALITIES)]
SET = EvaluationSet("wells", "a" * 64, IMAGES)
OTHER_SET = EvaluationSet("plates", "b" * 64, IMAGES)
NO_TRITON = Policy(environment=Path("/no/triton"))
WITHOUT_LOAD = ("latency",)

Judging = Callable[..., Judgement]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of a model that finds every disc."""
    return write_artifacts(tmp_path_factory.mktemp("good") / "model")


@pytest.fixture(scope="module")
def worse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of a model whose nuclei are too large."""
    return write_artifacts(tmp_path_factory.mktemp("worse") / "model", reach_px=2)


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without models, which tests copy: MLflow makes one in seconds."""
    database = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture
def uri(empty: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(empty, tmp_path)}"


@pytest.fixture
def judge(uri: str, tmp_path: Path) -> Judging:
    """Judges a version of the registry; the verdict is recorded as the command does."""
    count = 0

    def run(
        version: int,
        against: int | VersionState | None = None,
        images: EvaluationSet = SET,
        policy: Policy = NO_TRITON,
        model: str = MODEL,
    ) -> Judgement:
        nonlocal count
        count += 1
        scratch = tmp_path / f"scratch-{count}"
        scratch.mkdir()
        registry = Registry(uri)
        state = read_state(registry, model)
        other = state.find(against) if isinstance(against, int) else against
        judgement = Judge(registry, state, images, policy, scratch).judge(version, other)
        record(registry, state.find(version), judgement, page(f"{model} {version}", judgement))
        return judgement

    return run


def gates(judgement: Judgement) -> dict[str, Gate]:
    return {gate.name: gate for gate in judgement.gates}


def refused(judgement: Judgement) -> set[str]:
    """Names of the gates that were not passed, without Triton's."""
    return {gate.name for gate in judgement.gates if not gate.passed} - set(WITHOUT_LOAD)


def changed(artifacts: Path, folder: Path) -> Path:
    """A copy that a test may change."""
    folder.mkdir()
    for file in artifacts.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_good_first_version_passes_what_needs_no_triton(
    good: Path, uri: str, judge: Judging
) -> None:
    found = judge(register(uri, good))
    assert refused(found) == set()
    assert gates(found).keys() >= {
        *("onnx", "contract", "unseen", "floor.fluorescence", "floor.histology", "licence"),
        *("parity.grey.one_view.MAPS", "parity.grey.all_views.MAPS", "parity.grey.labels"),
        *("parity.colour.one_view.MAPS", "parity.colour.all_views.MAPS", "parity.colour.labels"),
    }
    assert found.against == "none"
    assert "there is no Triton in /no/triton" in gates(found)["latency"].sentence
    assert not found.passed


def test_the_verdict_is_kept_as_tags_and_as_files_of_a_run(
    good: Path, uri: str, judge: Judging
) -> None:
    version = register(uri, good)
    judge(version)
    state = read_state(Registry(uri), MODEL).find(version)
    assert state.gates is not None
    assert state.gates.verdict == "refused"
    assert state.gates.reason.startswith("latency: there is no Triton")
    assert state.gates.evaluation_set == f"wells@sha256:{'a' * 64}"
    client = MlflowClient(uri)
    run = client.get_run(state.gates.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["gate/parity.colour.labels"] == 1.0
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("wells", "a" * 36)
    assert json.loads(used.dataset.profile)["sha256"] == "a" * 64
    files = {file.path for file in client.list_artifacts(state.gates.run_id)}
    assert files == {"gates.html", "gates.json", "scores.json"}
    assert state.gates.against == "none"
    kept = json.loads(Registry(uri).read_artifact(state.gates.run_id, "gates.json", 2**20))
    assert kept["against"] == "none"
    assert kept["digest"] == state.gates.digest
    shown = Registry(uri).read_artifact(state.gates.run_id, "gates.html", 2**24).decode()
    assert all(gate["name"] in shown for gate in kept["gates"])
    assert "Compared with no version" in shown


def test_a_worse_version_is_refused_with_the_difference(
    good: Path, worse: Path, uri: str, judge: Judging
) -> None:
    champion, challenger = register(uri, good), register(uri, worse)
    found = judge(challenger, champion)
    assert {"accuracy", "accuracy.fluorescence", "accuracy.histology"} <= refused(found)
    assert "significantly worse" in gates(found)["accuracy"].sentence
    assert f"{MODEL} {champion}" in gates(found)["accuracy"].sentence
    back = judge(champion, challenger)
    assert gates(back)["accuracy"].passed
    assert gates(back)["accuracy"].figure == pytest.approx(-gates(found)["accuracy"].figure)


def test_the_scores_of_the_champion_are_used_again_while_nothing_changed(
    good: Path, worse: Path, uri: str, judge: Judging, capsys: pytest.CaptureFixture[str]
) -> None:
    champion, challenger = register(uri, good), register(uri, worse)
    judge(champion)
    kept = read_state(Registry(uri), MODEL).find(champion).gates
    assert kept is not None
    # Scores that no evaluation would give show where they come from.
    scores = json.loads(Registry(uri).read_artifact(kept.run_id, "scores.json", 2**20))
    scores["images"] = dict.fromkeys(scores["images"], 0.125)
    MlflowClient(uri).log_text(kept.run_id, json.dumps(scores), "scores.json")
    assert judge(challenger, champion).champion_scores.images["histology-4"] == 0.125
    for damaged in ('{"images": 3}', json.dumps({**scores, "digest": "0"}), "x"):
        MlflowClient(uri).log_text(kept.run_id, damaged, "scores.json")
        assert judge(challenger, champion).champion_scores.images["histology-4"] > 0.5


def test_versions_judged_on_other_images_are_not_compared(
    good: Path, worse: Path, uri: str, judge: Judging
) -> None:
    champion, challenger = register(uri, good), register(uri, worse)
    judge(champion, images=OTHER_SET)
    with pytest.raises(VersionRefused, match=r"plates@sha256:bbb.*wells@sha256:aaa") as raised:
        judge(challenger, champion)
    assert f"nuclei gate {champion}" in str(raised.value)


def test_a_model_is_compared_with_another_on_its_own_images(
    good: Path, worse: Path, uri: str, judge: Judging, tmp_path: Path
) -> None:
    champion = register(uri, worse)
    judge(champion, images=OTHER_SET)
    folder = changed(good, tmp_path / "mylab")
    (folder / CONTRACT_FILE).write_text(replace(CONTRACT, family="mylab").to_json())
    # The numbers of both are 1.
    own = register(uri, folder, "nuclei-mylab")
    other = read_state(Registry(uri), MODEL).find(champion)
    found = judge(own, other, model="nuclei-mylab")
    assert found.against == f"{MODEL} {champion}"
    assert gates(found)["accuracy"].passed
    assert gates(found)["accuracy"].figure > 0.1


def test_images_that_either_was_trained_on_do_not_count(
    good: Path, worse: Path, uri: str, judge: Judging, tmp_path: Path
) -> None:
    a, b = changed(good, tmp_path / "a"), changed(good, tmp_path / "b")
    Trained.on([IMAGES[0].pixels]).write(a / TRAINED_ON_FILE)
    # The same picture under another name, and one that is elsewhere.
    Trained.on([IMAGES[1].pixels.copy(), discs("x", seed=99).pixels]).write(b / TRAINED_ON_FILE)
    found = judge(register(uri, a), register(uri, b))
    assert list(found.images) == [image.id for image in IMAGES[2:]]
    assert gates(found)["unseen"].figure == 4
    Trained.on([image.pixels for image in IMAGES]).write(a / TRAINED_ON_FILE)
    assert "unseen" in refused(judge(register(uri, a)))


def test_images_whose_source_was_left_out_count_with_the_score_without_it(
    good: Path, uri: str, judge: Judging, tmp_path: Path
) -> None:
    folder, champion = changed(good, tmp_path / "a"), register(uri, good)
    Trained.on([image.pixels for image in IMAGES]).write(folder / TRAINED_ON_FILE)
    scores = {image_digest(image.pixels): 0.125 for image in IMAGES[:2]}
    LeftOut(scores).write(folder / LEFT_OUT_FILE)
    found = judge(register(uri, folder), champion)
    assert list(found.images) == [image.id for image in IMAGES[:2]]
    assert "2 are scored by networks" in gates(found)["unseen"].sentence
    assert found.scores is not None
    assert [found.scores.images[image.id] for image in IMAGES[:2]] == [0.125, 0.125]
    assert "accuracy" in refused(found)


def test_without_digests_the_names_that_were_held_out_count(
    good: Path, uri: str, judge: Judging, tmp_path: Path
) -> None:
    folder = changed(good, tmp_path / "a")
    (folder / CONTRACT_FILE).write_text(replace(CONTRACT, held_out=("histology-5",)).to_json())
    found = judge(register(uri, folder))
    assert list(found.images) == ["histology-5"]
    assert "does not say on which it was trained" in gates(found)["unseen"].sentence


def test_floors_are_of_each_modality(good: Path, uri: str, judge: Judging) -> None:
    bounds = Bounds(floor=0.1, floors={"histology": 0.9999})
    found = judge(register(uri, good), policy=replace(NO_TRITON, bounds=bounds))
    assert gates(found)["floor.fluorescence"].passed
    assert gates(found)["floor.histology"].bound == "at least 1.000"


@pytest.mark.parametrize(
    ("licence", "passed"),
    [
        ("Apache-2.0 AND CC0-1.0", True),
        ("Apache-2.0 AND LicenseRef-data-not-stated", True),
        ("AGPL-3.0 AND CC0-1.0", False),
        ("", False),
        ("<script>" * 100, False),
    ],
)
def test_licences(licence: str, passed: bool, good: Path, uri: str, judge: Judging) -> None:
    found = gates(judge(register(uri, good, licence=licence)))["licence"]
    assert found.passed == passed
    assert len(found.sentence) < 1000


def test_approval_is_asked_for_by_a_tag_of_the_model(good: Path, uri: str, judge: Judging) -> None:
    version = register(uri, good)
    client = MlflowClient(uri, uri)
    client.set_registered_model_tag(MODEL, "gate.needs_approval", "true")
    assert "approval" in refused(judge(version))
    client.set_model_version_tag(MODEL, str(version), "approval", "ada")
    assert gates(judge(version))["approval"].sentence == "approved by ada"


def _external(folder: Path) -> None:
    model = onnx.load(folder / "network.onnx")
    weights = model.graph.initializer[1]
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../../etc/passwd")
    weights.ClearField("raw_data")
    (folder / "network.onnx").write_bytes(model.SerializeToString())


def _foreign(folder: Path) -> None:
    model = onnx.load(folder / "network.onnx")
    model.graph.node[0].domain = "evil.ops"
    model.opset_import.add(domain="evil.ops", version=1)
    (folder / "network.onnx").write_bytes(model.SerializeToString())


def _old_reference(kind: Group, folder: Path) -> None:
    found = Reference.read(folder, kind, CONTRACT)
    maps = {"MAPS": 255 - found.one_view["MAPS"]}
    replace(found, one_view=maps, labels=np.zeros_like(found.labels)).write(folder)


def _no_references(folder: Path) -> None:
    for name in REFERENCE_FILES.values():
        (folder / name).unlink()


def _huge_contract(folder: Path) -> None:
    with (folder / CONTRACT_FILE).open("wb") as file:
        file.truncate(MAX_BYTES + 1)


BROKEN: dict[str, tuple[Callable[[Path], object], set[str], str]] = {
    "external data": (_external, {"onnx", "contract"}, "keeps weights in another file"),
    "foreign operators": (_foreign, {"onnx", "contract"}, "evil.ops.ReduceMean"),
    "truncated network": (
        lambda folder: (folder / "network.onnx").write_bytes(
            (folder / "network.onnx").read_bytes()[:-20]
        ),
        {"onnx", "contract"},
        "truncated",
    ),
    "no network": (
        lambda folder: (folder / "network.onnx").unlink(),
        {"contract"},
        "network.onnx is missing",
    ),
    "another family": (
        lambda folder: (folder / CONTRACT_FILE).write_text(
            replace(CONTRACT, family="linknet").to_json()
        ),
        {"contract"},
        "it is a linknet, registered as nuclei-unet",
    ),
    "huge contract": (_huge_contract, {"contract"}, "expected at most"),
    "answers of another model": (
        partial(_old_reference, "grey"),
        {"parity.grey.one_view.MAPS", "parity.grey.labels"},
        "MAPS of the grey reference differ by",
    ),
    "answers of another model to images in colour": (
        partial(_old_reference, "colour"),
        {"parity.colour.one_view.MAPS", "parity.colour.labels"},
        "MAPS of the colour reference differ by",
    ),
    "no reference": (
        _no_references,
        {"parity"},
        "has neither reference-grey.npz nor reference-colour.npz",
    ),
    "pickle as reference": (
        lambda folder: (folder / REFERENCE_FILES["grey"]).write_bytes(b"\x80\x04N."),
        {"parity"},
        "is no reference",
    ),
    "digests that are none": (
        lambda folder: (folder / TRAINED_ON_FILE).write_text("[1, 2]"),
        {"accuracy"},
        "expected a list of digests",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named_and_all_other_gates_run(
    case: str, good: Path, uri: str, judge: Judging, tmp_path: Path
) -> None:
    damage, expected, message = BROKEN[case]
    folder = changed(good, tmp_path / "broken")
    damage(folder)
    found = judge(register(uri, folder))
    assert refused(found) == expected
    assert any(message in gate.sentence for gate in found.gates if not gate.passed)
    assert gates(found)["licence"].passed


def test_a_champion_that_cannot_be_run_is_said(
    good: Path, uri: str, judge: Judging, tmp_path: Path
) -> None:
    folder = changed(good, tmp_path / "broken")
    (folder / "network.onnx").unlink()
    with pytest.raises(VersionRefused, match="cannot be compared with"):
        judge(register(uri, good), register(uri, folder))


@pytest.mark.triton
def test_time_and_memory_are_measured_in_triton(good: Path, uri: str, judge: Judging) -> None:
    champion, challenger = register(uri, good), register(uri, good)
    found = judge(challenger, champion, policy=Policy())
    measured = gates(found)
    assert 0 < measured["latency"].figure < 5000
    assert 20 < measured["memory"].figure < 5000
    assert f"times that of {MODEL} {champion}" in measured["latency"].sentence
