"""The C++ example, built with the system's compiler and libraries, against a real gateway."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.examples.contract import ClientContract, Program
from tests.prerequisites import missing, require_programs

SOURCE = Path(__file__).parents[2] / "examples" / "cpp"
INSTALL = "apt install g++ cmake protobuf-compiler-grpc libgrpc++-dev libprotobuf-dev libzstd-dev"
# Quick to build, and any warning is an error.
FLAGS = ("-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS=-O0", "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    require_programs("cmake", "c++", "protoc", "grpc_cpp_plugin", install=INSTALL)
    build = tmp_path_factory.mktemp("cpp")
    configured = subprocess.run(
        ["cmake", f"-S{SOURCE}", f"-B{build}", *FLAGS], capture_output=True, text=True
    )
    if configured.returncode:
        missing(f"cmake finds no gRPC, protobuf or zstd: {INSTALL}\n{configured.stderr}")
    built = subprocess.run(
        ["cmake", "--build", build, "--parallel", str(os.cpu_count())],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return Program([build / "nuclei-client"])


@pytest.mark.slow
class TestCpp(ClientContract):
    pass
