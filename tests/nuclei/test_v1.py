"""The committed stubs are those of the committed proto."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nuclei.v1 import segmentation_pb2, segmentation_pb2_grpc

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "nuclei/v1/segmentation.proto"
GENERATED = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stubs")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", f"--python_out={out}",
         f"--grpc_python_out={out}", f"--mypy_out=quiet:{out}", f"--mypy_grpc_out=quiet:{out}",
         "nuclei/v1/segmentation.proto"],
        check=True, env={**os.environ, "PATH": path}, cwd=ROOT,
    )  # fmt: skip
    return out


@pytest.mark.parametrize("suffix", GENERATED)
def test_stub_is_what_the_proto_gives(regenerated: Path, suffix: str) -> None:
    name = f"nuclei/v1/segmentation{suffix}"
    assert (ROOT / name).read_text() == (regenerated / name).read_text(), "run `make proto`"


def test_service_is_complete() -> None:
    service = segmentation_pb2.DESCRIPTOR.services_by_name["Segmentation"]
    assert service.full_name == "nuclei.v1.Segmentation"
    for method in service.methods:
        assert hasattr(segmentation_pb2_grpc.SegmentationServicer, method.name)


def test_lengths_in_replies_carry_their_unit() -> None:
    columns = segmentation_pb2.Nuclei.DESCRIPTOR.fields_by_name
    unitless = {"label", "eccentricity", "mean_intensity", "score"}
    assert all(re.search(r"_(px|um|um2)$", name) for name in set(columns) - unitless)
