"""The committed stubs match the committed proto, which is compatible with the released API."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from nuclei.v1 import segmentation_pb2, segmentation_pb2_grpc

ROOT = Path(__file__).parents[2]
PROTO = "nuclei/v1/segmentation.proto"
RELEASED = ROOT / "nuclei/v1/released.binpb"
GENERATED = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stubs")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", f"--python_out={out}",
         f"--grpc_python_out={out}", f"--mypy_out=quiet:{out}", f"--mypy_grpc_out=quiet:{out}",
         PROTO],
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


def buf(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("buf"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@dataclass(frozen=True)
class ChangedApi:
    """A copy of the API that tests may change."""

    folder: Path

    def replace(self, old: str, new: str) -> None:
        text = (self.folder / PROTO).read_text()
        assert text.count(old) == 1
        (self.folder / PROTO).write_text(text.replace(old, new))

    def lint(self) -> subprocess.CompletedProcess[str]:
        return buf(self.folder, "lint")

    def breaking(self) -> subprocess.CompletedProcess[str]:
        return buf(self.folder, "breaking", "--against", RELEASED)


@pytest.fixture
def changed(tmp_path: Path) -> ChangedApi:
    (tmp_path / PROTO).parent.mkdir(parents=True)
    shutil.copy(ROOT / PROTO, tmp_path / PROTO)
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    return ChangedApi(tmp_path)


def test_api_follows_the_rules() -> None:
    linted = buf(ROOT, "lint")
    assert (linted.returncode, linted.stdout, linted.stderr) == (0, "", "")


def test_api_is_compatible_with_the_released_one() -> None:
    compared = buf(ROOT, "breaking", "--against", RELEASED)
    assert (compared.returncode, compared.stdout, compared.stderr) == (0, "", "")


def test_lint_checks_both() -> None:
    recipe = subprocess.run(
        ["make", "--dry-run", "lint"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "buf lint" in recipe.stdout
    assert f"buf breaking --against {RELEASED.relative_to(ROOT)}" in recipe.stdout


def test_rules_are_enforced(changed: ChangedApi) -> None:
    changed.replace("  PIXEL_TYPE_UINT16 = 2;", "  UINT16 = 2;")
    linted = changed.lint()
    assert linted.returncode
    assert "prefixed" in linted.stdout


def test_a_new_field_is_compatible(changed: ChangedApi) -> None:
    changed.replace("  uint32 count = 6;", "  uint32 count = 6;\n  uint32 added = 99;")
    assert changed.breaking().returncode == 0


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("  uint32 count = 6;", "", 'field "6" with name "count" on message'),
        ("  uint32 count = 6;", "  reserved 6;", 'field "6" with name "count" on message'),
        ("  uint32 count = 6;", "  uint32 count = 99;", 'field "6" with name "count" on message'),
        ("  uint32 count = 6;", "  double count = 6;", 'changed type from "uint32" to "double"'),
        ("  uint32 count = 6;", "  uint32 n_nuclei = 6;", 'changed name from "count"'),
        ("  uint32 count = 6;", "  repeated uint32 count = 6;", "cardinality"),
        ("  PIXEL_TYPE_UINT16 = 2;", "", 'enum value "2"'),
        ("service Segmentation {", "service Other {", 'service "Segmentation"'),
        ("package nuclei.v1;", "package nuclei.v2;", "package"),
    ],
    ids=[
        "removed field",
        "reserved field",
        "renumbered field",
        "changed type",
        "renamed field",
        "changed cardinality",
        "removed enum value",
        "renamed service",
        "renamed package",
    ],
)
def test_an_incompatible_change_is_caught(
    changed: ChangedApi, old: str, new: str, reason: str
) -> None:
    changed.replace(old, new)
    compared = changed.breaking()
    assert compared.returncode
    assert reason in compared.stdout
