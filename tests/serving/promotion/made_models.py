"""Artifacts of tiny models without torch, and registries and images for them."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from mlflow import MlflowClient
from numpy.typing import NDArray
from onnx import TensorProto, helper

from nuclei.inference.contract import CONTRACT_FILE, Contract
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.reference import write_references
from nuclei.inference.routing import Routing
from serving.repository.export import export_version, set_routing

MODEL = "nuclei-unet"
LICENCE = "Apache-2.0 AND CC0-1.0"
CONTRACT = Contract("unet", tile_size=128, halo=16)


@dataclass(frozen=True, eq=False)
class Image:
    """An image with its truth."""

    id: str
    modality: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint32]
    source: str = "discs"


def discs(name: str, modality: str = "fluorescence", seed: int = 0, side: int = 96) -> Image:
    """Bright discs on a grid, each a little elsewhere, with their labels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    labels = np.zeros((side, side), np.uint32)
    for row in range(12, side - 8, 24):
        for column in range(12, side - 8, 24):
            cy, cx = row + rng.uniform(-2, 2), column + rng.uniform(-2, 2)
            labels[np.hypot(y - cy, x - cx) < 7] = labels.max() + 1
    pixels = np.where(labels > 0, 200, 20) + rng.normal(0, 2, labels.shape)
    return Image(name, modality, pixels.clip(0, 255).astype(np.uint8)[..., None], labels)


def write_artifacts(
    folder: Path, *, gain: float = 1.0, reach_px: int = 0, reference: bool = True
) -> Path:
    """What training registers, for a model that takes bright pixels for nuclei.

    Args:
        folder: made.
        gain: of the brightness; 0 finds nothing.
        reach_px: by how much its nuclei are too large.
        reference: whether it has one, made by its own files.
    """
    folder.mkdir(parents=True)
    for name, model in (
        ("preprocess", _preprocess()),
        ("tta", _views()),
        ("network", _network(gain, reach_px)),
        ("merge", _merge()),
    ):
        onnx.save(model, folder / f"{name}.onnx")
    (folder / CONTRACT_FILE).write_text(CONTRACT.to_json())
    if reference:
        write_own_references(folder)
    return folder


def write_own_references(folder: Path) -> None:
    """Let a version's own files make its references."""
    with TemporaryDirectory() as scratch:
        repository = Path(scratch) / "models"
        export_version(folder, repository, 1)
        set_routing(repository, "unet", Routing(1))
        engine = LocalEngine(repository)
        grey = discs("reference", side=128).pixels
        colour = np.repeat(grey, 3, axis=2)
        write_references([grey, colour], engine, engine.find("unet"), folder)


def register(uri: str, artifacts: Path, model: str = MODEL, **tags: str) -> int:
    """Register a version as training does; gives its number."""
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("nuclei")
    if experiment is None:
        files = Path(uri.removeprefix("sqlite:///")).parent / "files"
        made = client.create_experiment("nuclei", files.as_uri())
    else:
        made = experiment.experiment_id
    if not client.search_registered_models(f"name = '{model}'"):
        client.create_registered_model(model)
    run = client.create_run(made)
    client.log_artifacts(run.info.run_id, str(artifacts), "model")
    version = client.create_model_version(
        model,
        f"runs:/{run.info.run_id}/model",
        run.info.run_id,
        tags={"licence": LICENCE, **tags},
    )
    return int(version.version)


def _model(
    nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any], **constants: Any
) -> onnx.ModelProto:
    weights = [onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    taken, given = (
        [helper.make_tensor_value_info(*one) for one in side] for side in (inputs, outputs)
    )
    graph = helper.make_graph(nodes, "made", taken, given, weights)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def _preprocess() -> onnx.ModelProto:
    node = helper.make_node
    return _model(
        [
            node("Cast", ["IMAGE"], ["float"], to=TensorProto.FLOAT),
            node("Transpose", ["float"], ["chw"], perm=[2, 0, 1]),
            node("Unsqueeze", ["chw", "first"], ["values"]),
            node("Gather", ["RANGE", "low"], ["lo"]),
            node("Gather", ["RANGE", "high"], ["hi"]),
            node("Sub", ["values", "lo"], ["above"]),
            node("Sub", ["hi", "lo"], ["width"]),
            node("Div", ["above", "width"], ["scaled"]),
            node("Clip", ["scaled", "zero", "one"], ["INPUT"]),
        ],
        [("IMAGE", TensorProto.UINT16, ["h", "w", "c"]), ("RANGE", TensorProto.FLOAT, [2])],
        [("INPUT", TensorProto.FLOAT, [1, "c", "h", "w"])],
        **{"first": np.array([0]), "low": np.array(0), "high": np.array(1)},
        **{"zero": np.float32(0), "one": np.float32(1)},
    )


def _views() -> onnx.ModelProto:
    return _model(
        [helper.make_node("Concat", ["INPUT"] * 8, ["VIEWS"], axis=0)],
        [("INPUT", TensorProto.FLOAT, [1, "c", "h", "h"])],
        [("VIEWS", TensorProto.FLOAT, [8, "c", "h", "h"])],
    )


def _network(gain: float, reach_px: int) -> onnx.ModelProto:
    node = helper.make_node
    side = 2 * reach_px + 1
    return _model(
        [
            node("ReduceMean", ["IMAGE", "channels"], ["grey"], keepdims=1),
            node("MaxPool", ["grey"], ["wide"], kernel_shape=[side] * 2, pads=[reach_px] * 4),
            node("Mul", ["wide", "gain"], ["bright"]),
            node("Mul", ["bright", "none"], ["border"]),
            node("Concat", ["bright", "border", "bright"], ["maps"], axis=1),
            node("Clip", ["maps", "zero", "most"], ["levels"]),
            node("Cast", ["levels"], ["MAPS"], to=TensorProto.UINT8),
        ],
        [("IMAGE", TensorProto.FLOAT, ["n", "c", "h", "w"])],
        [("MAPS", TensorProto.UINT8, ["n", 3, "h", "w"])],
        **{"channels": np.array([1]), "gain": np.float32(255 * gain), "none": np.float32(0)},
        **{"zero": np.float32(0), "most": np.float32(255)},
    )


def _merge() -> onnx.ModelProto:
    node = helper.make_node
    return _model(
        [
            node("Slice", ["MAPS_IN", "zero", "one", "zero"], ["MAPS"]),
            node("Slice", ["MAPS", "zero", "one", "one"], ["map"]),
            node("Squeeze", ["map", "axes"], ["DISAGREEMENT"]),
        ],
        [("MAPS_IN", TensorProto.UINT8, [8, "c", "h", "h"])],
        [
            ("MAPS", TensorProto.UINT8, [1, "c", "h", "h"]),
            ("DISAGREEMENT", TensorProto.UINT8, ["h", "h"]),
        ],
        **{"zero": np.array([0]), "one": np.array([1]), "axes": np.array([0, 1])},
    )
