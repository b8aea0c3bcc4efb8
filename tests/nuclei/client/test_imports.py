"""What a client needs: its modules import few packages."""

import json
import subprocess
import sys

# The dependencies in pyproject.toml, and typing_extensions, which grpcio needs.
ALLOWED = {"nuclei", "numpy", "grpc", "google", "backports", "typing_extensions"}
# grpc imports its own extensions where they are installed.
OF_GRPC = {"grpc_health", "grpc_reflection", "grpc_status", "grpc_tools"}
MODULES = ("nuclei.client", "nuclei.results.segmentation", "nuclei.results.label_codec")

CODE = """
import json, sys
before = set(sys.modules)
import {modules}
roots = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(json.dumps(sorted(roots - sys.stdlib_module_names)))
"""


def test_the_client_imports_its_few_packages_only() -> None:
    code = CODE.format(modules=", ".join(MODULES))
    run = subprocess.run(
        [sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True
    )
    # Cython registers modules of its own for grpc's extension.
    imported = {name for name in json.loads(run.stdout) if "cython" not in name}
    assert imported >= {"nuclei", "numpy", "grpc", "google"}
    assert imported <= ALLOWED | OF_GRPC
