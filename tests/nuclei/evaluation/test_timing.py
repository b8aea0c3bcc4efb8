import asyncio
from pathlib import Path

import numpy as np
import pytest

from nuclei.errors import ModelNotFound
from nuclei.evaluation.timing import timed_inference
from nuclei.imaging.images import Frame, read_frame
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.pipeline import segment


def test_the_nuclei_are_those_that_are_served(repository: Path, fluorescence: Path) -> None:
    frame = read_frame(fluorescence)
    frame = Frame(np.ascontiguousarray(frame.pixels[:160, :200]), warnings=("doubtful",))
    done: list[None] = []
    (inference,), cost = timed_inference(
        repository, "unet", False, [frame], lambda: done.append(None)
    )
    engine = LocalEngine(repository)
    served = asyncio.run(segment(frame, engine, engine.find("unet")))
    np.testing.assert_array_equal(inference.labels, served.labels)
    assert inference.version == served.version
    assert "doubtful" in inference.warnings
    assert inference.warnings == served.warnings
    assert len(done) == 1
    candidates = inference.candidates
    assert len(candidates.scores) == candidates.labels.max() >= len(served.nuclei)
    kept = np.isin(candidates.labels, candidates.labels[served.labels > 0])
    np.testing.assert_array_equal(kept & (served.labels == 0), False)
    assert 0 < cost.ms_per_image == pytest.approx(inference.seconds * 1e3)
    assert cost.ms_per_megapixel == pytest.approx(cost.ms_per_image / 0.032)
    assert 50 < cost.memory_mb < 10_000


def test_a_model_that_is_not_there_is_named(repository: Path) -> None:
    frame = Frame(np.zeros((32, 32, 1), np.uint8))
    with pytest.raises(ModelNotFound, match="there is no model 'nothing'"):
        timed_inference(repository, "nothing", False, [frame])
