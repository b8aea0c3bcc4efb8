"""The gates of a model version: everything that is found out before it may serve.

All of them run even when one fails, so that a report says all that is wrong. What cannot be
measured because an earlier step failed is a gate that is not passed.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from nuclei.errors import InvalidData, NucleiError, VersionRefused
from nuclei.evaluation.left_out import LeftOut
from nuclei.evaluation.metrics import Labels, Overlap, scores_of
from nuclei.evaluation.scores import Evaluation
from nuclei.evaluation.unseen import Trained, image_digest, unseen
from nuclei.inference.contract import CONTRACT_FILE, Contract
from nuclei.inference.engine import ServedVersion
from nuclei.inference.graph import BOXES, MAPS, MASKS, POINTS, RAYS, SCORES
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.parity import differences
from nuclei.inference.provenance import AND, DATA_NOT_STATED
from nuclei.inference.reference import Reference, read_references
from nuclei.inference.routing import Routing
from nuclei.quoting import sentence
from nuclei.registry import registered_name
from serving.promotion.accuracy import (
    MAX_SCORES_BYTES,
    SCORES_FILE,
    Bounds,
    EvaluationSet,
    Image,
    Scores,
    accuracy_gates,
    evaluate,
    fingerprint_in,
    floor_gates,
)
from serving.promotion.artifacts import artifact_files, digest
from serving.promotion.changes import record_gates
from serving.promotion.load import Loaded, load_gates, measure
from serving.promotion.onnx_contents import read_contents
from serving.promotion.state import NO_VERSION, Gates, ModelState, VersionState
from serving.promotion.verdict import Gate, reason
from serving.registry import Registry
from serving.repository.checks import check_repository
from serving.repository.export import export_version, set_routing
from serving.settings import TRITON_ENVIRONMENT
from serving.triton.backend.onnx_file import MAX_IR_VERSION, MAX_OPSET

# A tag of the registered model: whether its versions need the tag `approval`.
NEEDS_APPROVAL_TAG = "gate.needs_approval"
LICENCES = frozenset(
    {
        "Apache-2.0",
        "MIT",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC0-1.0",
        "CC-BY-3.0",
        "CC-BY-4.0",
        # Use of any kind with a citation, says its authors' page (training/data/catalog.py).
        "LicenseRef-Coelho2009",
        DATA_NOT_STATED,
    }
)
# Largest differences of ONNX and torch. Weights are stored in half precision, and maps and masks
# are rounded to bytes; nuclei that only one of them finds are a share of all.
PARITY = {MAPS: 8.0, MASKS: 8.0, BOXES: 0.5, POINTS: 0.5, RAYS: 0.5, SCORES: 0.02}
UNMATCHED_SHARE = 0.05
SAME_LABELS_AP50 = 0.95


@dataclass(frozen=True)
class Policy:
    """What is asked of a version.

    Attributes:
        bounds: of accuracy.
        licences: each part of the licence must be one of these, SPDX.
        environment: virtual environment of Triton.
    """

    bounds: Bounds = field(default_factory=Bounds)
    licences: frozenset[str] = LICENCES
    environment: Path = TRITON_ENVIRONMENT


@dataclass(frozen=True, eq=False)
class Opened:
    """A version whose files can be run.

    Attributes:
        state: what the registry says.
        artifacts: folder of its files.
        digest: of these.
        engine: runs it in this process.
        loaded: it, in a repository of its own.
    """

    state: VersionState
    artifacts: Path
    digest: str
    engine: LocalEngine
    loaded: Loaded

    @property
    def served(self) -> ServedVersion:
        return self.loaded.served

    @property
    def title(self) -> str:
        return self.state.title

    @cached_property
    def trained(self) -> Trained:
        """What it was trained on; raises InvalidData."""
        return Trained.read(self.artifacts, self.served.contract)

    @cached_property
    def left_out(self) -> LeftOut:
        """Scores of images by networks that had not seen their source; raises InvalidData."""
        return LeftOut.read(self.artifacts)


@dataclass(frozen=True, eq=False)
class Judgement:
    """What the gates found.

    Attributes:
        gates: all of them.
        digest: of the files that were judged; empty when they have none.
        evaluation_set: the images.
        images: those that were compared, that no model was trained on.
        evaluation: of all images of the set; None when the version could not be run.
        scores: of the version, on the same.
        against: that it was compared with, as `nuclei-unet 3`; `NO_VERSION` for floors only.
        champion_scores: of the champion, on all images of the set; None without one.
    """

    gates: tuple[Gate, ...]
    digest: str
    evaluation_set: EvaluationSet
    images: Sequence[str] = ()
    evaluation: Evaluation | None = None
    scores: Scores | None = None
    against: str = NO_VERSION
    champion_scores: Scores | None = None

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)

    @property
    def reason(self) -> str:
        """One sentence."""
        uncompared = self.passed and self.against == NO_VERSION
        return sentence(reason(self.gates) + (", compared with no version" if uncompared else ""))


class Judge:
    """Judges one version of a model; nothing of the registry is changed."""

    def __init__(
        self,
        registry: Registry,
        model: ModelState,
        evaluation_set: EvaluationSet,
        policy: Policy,
        scratch: Path,
    ) -> None:
        """Prepare.

        Args:
            registry: of the models.
            model: what it says.
            evaluation_set: the images.
            policy: what is asked for.
            scratch: existing empty folder for the files of the versions.
        """
        self._registry = registry
        self._model = model
        self._set = evaluation_set
        self._policy = policy
        self._scratch = scratch

    def judge(self, version: int, against: VersionState | None) -> Judgement:
        """Run all gates.

        Args:
            version: to be judged.
            against: the version that it is compared with, of this model or of another; None for
                floors only.

        Raises:
            ModelNotFound, RegistryUnavailable: as the registry does.
            VersionRefused: the champion was judged on other images, or cannot be run.
        """
        state = self._model.find(version)
        other = None if against is None or against.title == state.title else against
        champion = None if other is None else self._champion(other)
        gates: list[Gate] = []
        opened = self._open(state, gates)
        if opened is None:
            found = Judgement((), "", self._set)
        else:
            found = self._measure(opened, champion, gates)
        gates += self._noted(state)
        title = champion.title if champion else NO_VERSION
        return replace(found, gates=tuple(gates), against=title)

    def _open(self, state: VersionState, gates: list[Gate]) -> Opened | None:
        """Download a version and make it a repository: its files, contract and signature."""
        folder = self._scratch / state.registered.model / str(state.version)
        try:
            folder.mkdir(parents=True)
            artifacts = self._registry.download(state.registered, folder)
            of_files = digest(artifacts)
        except InvalidData as error:
            gates.append(Gate("files", None, "files of its run alone", False, str(error)))
            return None
        gates.append(_onnx_gate(artifacts))
        bound = "what this release serves"
        try:
            opened = _opened(state, artifacts, of_files, folder / "repository")
        except NucleiError as error:
            gates.append(Gate("contract", None, bound, False, str(error)))
            return None
        contract = opened.served.contract
        said = f"a {contract.family} with {contract.method.name}, tiles of {contract.tile_size} px"
        gates.append(Gate("contract", contract.method.name, bound, True, said))
        return opened

    def _champion(self, state: VersionState) -> Opened:
        """The version to compare with."""
        failed: list[Gate] = []
        opened = self._open(state, failed)
        title = state.title
        if opened is None:
            raise VersionRefused(
                f"{title} cannot be compared with: {reason(failed)}; roll back, or name another "
                "with --against"
            )
        gates = state.gates
        # Another model is judged on images of its own.
        kept = gates and gates.digest == opened.digest and self._is_own(state)
        judged_on = gates.evaluation_set if gates and kept else ""
        if judged_on and fingerprint_in(judged_on) != self._set.fingerprint:
            raise VersionRefused(
                f"{title} was judged on {judged_on}, and this is {self._set}: scores on other "
                f"images do not compare; use the same, or run `nuclei gate {state.version}` on "
                "these first"
            )
        return opened

    def _is_own(self, state: VersionState) -> bool:
        return state.registered.model == self._model.name

    def _measure(self, opened: Opened, champion: Opened | None, gates: list[Gate]) -> Judgement:
        """The gates of a version that can be run."""
        references: list[Reference] = []
        try:
            references = read_references(opened.artifacts, opened.served.contract)
            for reference in references:
                gates += _parity_gates(opened, reference)
        except NucleiError as error:
            gates.append(Gate("parity", None, "as the reference", False, str(error)))
        found = Judgement((), opened.digest, self._set)
        try:
            found = self._accuracy(opened, champion, gates)
        except NucleiError as error:
            gates.append(Gate("accuracy", None, "as the champion", False, str(error)))
        try:
            if not references:
                raise InvalidData("not measured without a reference image")
            gates += self._load_gates(opened, champion, references[0])
        except NucleiError as error:
            gates.append(Gate("latency", None, "within its budget", False, str(error)))
        return found

    def _accuracy(self, opened: Opened, champion: Opened | None, gates: list[Gate]) -> Judgement:
        models = [one for one in (opened, champion) if one is not None]
        trained = [one.trained.apart_from(one.left_out.scores) for one in models]
        images = unseen(self._set.images, trained)
        evaluation, scores = self._scored(opened)
        names = tuple(image.id for image in images)
        found = Judgement((), opened.digest, self._set, names, evaluation, scores)
        gates.append(_unseen_gate(self._set, images, trained, opened.left_out))
        if not images:
            return found
        gates += floor_gates(images, scores, self._policy.bounds)
        if champion is None:
            return found
        of_champion = self._champion_scores(champion)
        gates += accuracy_gates(images, scores, of_champion, champion.title, self._policy.bounds)
        return replace(found, champion_scores=of_champion)

    def _champion_scores(self, champion: Opened) -> Scores:
        """Those of its own gates where they are of the same images and files, else new ones."""
        kept = champion.state.gates
        if kept is not None and kept.digest == champion.digest and kept.run_id:
            try:
                text = self._registry.read_artifact(kept.run_id, SCORES_FILE, MAX_SCORES_BYTES)
                scores = Scores.from_json(text)
                names = {image.id for image in self._set.images}
                same = scores.fingerprint == self._set.fingerprint and names <= set(scores.images)
                if same and scores.digest == champion.digest:
                    return scores
            except InvalidData:  # gone, or not what it was: they are made again
                pass
        return self._scored(champion)[1]

    def _scored(self, opened: Opened) -> tuple[Evaluation, Scores]:
        evaluation = evaluate(self._set.images, opened.engine, opened.served)
        return evaluation, Scores.of(self._set, opened.digest, evaluation, opened.left_out)

    def _load_gates(
        self, opened: Opened, champion: Opened | None, reference: Reference
    ) -> list[Gate]:
        versions = [one.loaded for one in (opened, champion) if one is not None]
        loads = measure(versions, reference.image, reference.intensity, self._policy.environment)
        other = loads[1] if champion is not None else None
        return load_gates(loads[0], other, champion.title if champion else "")

    def _noted(self, state: VersionState) -> Iterator[Gate]:
        """The gates of what people noted on the version."""
        yield _licence_gate(state.licence, self._policy.licences)
        if self._model_needs_approval():
            said = (
                f"approved by {state.approval}"
                if state.approval
                else ("nobody has approved it; set the tag `approval` of the version to your name")
            )
            yield Gate("approval", state.approval, "a name", bool(state.approval), said)

    def _model_needs_approval(self) -> bool:
        tags = self._registry.model(self._model.name).tags
        return tags.get(NEEDS_APPROVAL_TAG, "").lower() in ("true", "yes", "1")


def record(registry: Registry, version: VersionState, judgement: Judgement, page: str) -> Gates:
    """Keep a judgement: an MLflow run with the page, the figures and the set, and the tags.

    Args:
        registry: of the models.
        version: that was judged.
        judgement: what was found.
        page: the HTML report.

    Raises:
        RegistryUnavailable: the registry does not answer.
    """
    model, number = version.registered.model, version.version
    with registry.recorded_run(f"gate {model} {number}") as run:
        run.dataset(
            judgement.evaluation_set.name,
            judgement.evaluation_set.fingerprint,
            {"images": len(judgement.evaluation_set.images)},
        )
        figures = {
            f"gate/{gate.name}": gate.figure
            for gate in judgement.gates
            if isinstance(gate.figure, float) and np.isfinite(gate.figure)
        }
        run.metrics(figures)
        run.tags({"model": model, "version": str(number), "reason": judgement.reason})
        run.text(page, "gates.html")
        run.text(_as_json(judgement), "gates.json")
        if judgement.scores is not None:
            run.text(judgement.scores.to_json(), SCORES_FILE)
        gates = Gates(
            verdict="passed" if judgement.passed else "refused",
            reason=judgement.reason,
            run_id=run.id,
            evaluation_set=str(judgement.evaluation_set),
            digest=judgement.digest or "none",
            against=judgement.against,
        )
    record_gates(registry, model, number, gates)
    return gates


def _opened(state: VersionState, artifacts: Path, of_files: str, repository: Path) -> Opened:
    registered = state.registered
    contract = Contract.read(artifacts / CONTRACT_FILE)
    if registered_name(contract.family) != registered.model:
        raise InvalidData(
            f"it is a {contract.family}, registered as {registered.model}; register it as "
            f"{registered_name(contract.family)}"
        )
    export_version(artifacts, repository, state.version, registered_model=registered.model)
    set_routing(repository, contract.family, Routing(state.version))
    check_repository(repository)
    engine = LocalEngine(repository)
    served = engine.find(contract.family, state.version)
    return Opened(state, artifacts, of_files, engine, Loaded(repository, served))


def _onnx_gate(artifacts: Path) -> Gate:
    """Whether the ONNX files are what they claim."""
    bound = f"opset at most {MAX_OPSET}, operators of ONNX, all weights in the file"
    problems, operators, opsets, size = [], set(), set(), 0
    files = [path for path in artifact_files(artifacts) if path.suffix == ".onnx"]
    for path in files:
        try:
            contents = read_contents(path)
        except InvalidData as error:
            problems.append(str(error))
            continue
        opsets.add(contents.versions.opset)
        operators |= contents.operators
        size += path.stat().st_size
        if contents.external:
            problems.append(f"{path.name} keeps weights in another file; export it whole")
        if contents.foreign:
            shown = ", ".join(map(sentence, contents.foreign[:5]))
            problems.append(f"{path.name} has operators that are not ONNX's: {shown}")
        if not 1 <= contents.versions.opset <= MAX_OPSET:
            problems.append(f"{path.name} has opset {contents.versions.opset}")
        if contents.versions.ir > MAX_IR_VERSION:
            problems.append(f"{path.name} has IR version {contents.versions.ir}")
    if not files:
        problems.append("there is no ONNX file")
    figure = f"{len(files)} files, {size / 1e6:.1f} MB"
    said = f"{len(operators)} operators, opsets {', '.join(map(str, sorted(opsets)))}"
    return Gate("onnx", figure, bound, not problems, "; ".join(problems) or said)


def _parity_gates(opened: Opened, reference: Reference) -> list[Gate]:
    """Whether the ONNX files answer a reference image as torch did."""
    found = asyncio.run(Reference.of(reference.image, opened.engine, opened.served))
    gates = []
    for name, expected, answered in (
        ("one_view", reference.one_view, found.one_view),
        ("all_views", reference.all_views, found.all_views),
    ):
        for tensor, difference in differences(expected, answered).items():
            unmatched = tensor == "UNMATCHED"
            most = UNMATCHED_SHARE * len(expected[SCORES]) if unmatched else PARITY[tensor]
            gates.append(
                Gate(
                    f"parity.{reference.kind}.{name}.{tensor}",
                    difference,
                    f"at most {most:g}",
                    difference <= most,
                    f"{tensor} of the {reference.kind} reference differ by {difference:.3g} at most"
                    if not unmatched
                    else f"{difference:.0f} nuclei are found by ONNX or torch alone",
                )
            )
    same = _same_labels(reference.labels, found.labels)
    said = f"{same:.3f} of the nuclei of the {reference.kind} reference are where torch found them"
    passed = same >= SAME_LABELS_AP50
    bound = f"at least {SAME_LABELS_AP50}"
    gates.append(Gate(f"parity.{reference.kind}.labels", same, bound, passed, said))
    return gates


def _same_labels(expected: Labels, found: Labels) -> float:
    """AP at IoU 0.5; two empty images are the same."""
    if not expected.any() and not found.any():
        return 1.0
    return float(scores_of(Overlap.of(expected, found))["ap_0.50"])


def _unseen_gate(
    evaluation_set: EvaluationSet,
    images: Sequence[Image],
    trained: Sequence[Trained],
    left_out: LeftOut,
) -> Gate:
    kept = len(images)
    every = len(evaluation_set.images)
    said = f"{kept} of {every} images of {evaluation_set.name} were in no training"
    by_others = sum(image_digest(image.pixels) in left_out.scores for image in images)
    if by_others:
        said += (
            f", or in none of the networks that scored them: {by_others} are scored by networks of "
            "the same training from which their source was left out"
        )
    if not all(model.complete for model in trained):
        said += "; a model does not say on which it was trained, so its held-out names were used"
    if not kept:
        said += ": scores of images that a model was trained on say nothing; use others"
    return Gate("unseen", float(kept), "at least 1 image", kept > 0, said)


def _licence_gate(licence: str | None, accepted: frozenset[str]) -> Gate:
    parts = [part.strip() for part in (licence or "").split(AND)]
    refused = [part for part in parts if part not in accepted]
    bound = f"of {', '.join(sorted(accepted))}"
    if licence is None:
        said = "it has no tag `licence`; set it to the SPDX expression of its code and its data"
    elif refused:
        said = f"{' and '.join(refused)} is not accepted; name it with --accept-licence if it is"
    elif DATA_NOT_STATED in parts:
        said = f"{licence}: of the data nobody said (train with --data-licence)"
    else:
        said = licence
    return Gate("licence", licence, bound, licence is not None and not refused, said)


def _as_json(judgement: Judgement) -> str:
    fields: Mapping[str, object] = {
        "verdict": "passed" if judgement.passed else "refused",
        "reason": judgement.reason,
        "digest": judgement.digest,
        "evaluation_set": str(judgement.evaluation_set),
        "against": judgement.against,
        "compared_images": list(judgement.images),
        "gates": [asdict(gate) for gate in judgement.gates],
    }
    return json.dumps(fields, indent=2)
