"""Coverage-guided fuzzing of a model's files: a contract and a configuration, or InvalidData.

.venv-train/bin/python tests/fuzz/model.py -max_total_time=600 NEW tests/fuzz/corpus/model
"""

import contextlib
import sys

import atheris

# Modules with compiled loops cannot be instrumented.
import nuclei.imaging.boxes
import nuclei.imaging.intensity
import nuclei.postprocessing.measurement
import nuclei.postprocessing.rendering
import nuclei.postprocessing.watershed
import nuclei.quality.measures  # noqa: F401

with atheris.instrument_imports(include=["nuclei", "google.protobuf.text_format"]):
    from nuclei.errors import InvalidData, ModelNotFound
    from nuclei.inference.contract import Contract
    from nuclei.inference.model_config import contract_of, parse_model_config
    from nuclei.names import is_name


def read(data: bytes) -> None:
    with contextlib.suppress(InvalidData):
        check(Contract.from_json(data))
    with contextlib.suppress(InvalidData, ModelNotFound):
        config = parse_model_config(data, "model")
        assert is_name(config.name)
        check(contract_of(config))


def check(contract: Contract) -> None:
    assert is_name(contract.family)
    assert 0 <= 2 * contract.halo < contract.tile_size <= 8192
    assert Contract.from_json(contract.to_json()) == contract


if __name__ == "__main__":
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()
