import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from nuclei.cli import gateway
from nuclei.client import connection
from nuclei.errors import FrameTooLarge, MissingPrerequisite
from nuclei.version import installed_version

HEAVY = ("torch", "bentoml", "mlflow", "matplotlib", "onnxruntime", "cv2", "tritonclient")
COMMANDS = ("segment", "evaluate", "train", "data", "serve", "export", "models", "deploy")


def nuclei(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from nuclei.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )


def test_help_lists_every_command() -> None:
    shown = nuclei("--help")
    assert shown.returncode == 0
    for command in COMMANDS:
        assert f" {command} " in shown.stdout


def test_version_is_the_installed_one() -> None:
    shown = nuclei("--version")
    assert (shown.returncode, shown.stdout) == (0, f"nuclei-serving {installed_version()}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    assert nuclei(command, "--help").returncode == 0


@pytest.mark.parametrize("command", ["segment", "evaluate"])
def test_help_gives_examples(command: str) -> None:
    shown = nuclei(command, "--help").stdout
    assert "Examples" in shown
    assert f"nuclei {command} " in shown


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from nuclei.cli.app import app\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert shown.stdout.strip() == "[]"


# Runs the command with 300 MB of memory more than its imports have taken.
SHORT_OF_MEMORY = """
import resource
import nuclei.formats, nuclei.client, nuclei.imaging.images, nuclei.imaging.frame_options
import training.data.dataset
from nuclei.cli.app import app
from nuclei.cli.main import main
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 3 * 10**8,) * 2)
main()
"""


def with_little_memory(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SHORT_OF_MEMORY, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    pixels = np.zeros((12_000, 12_000), np.uint16)
    tifffile.imwrite(folder / "large.tif", pixels, compression="zlib", rowsperstrip=1000)
    (folder / "text.tif").write_text("no image")
    return folder


def test_a_frame_without_memory_for_it_is_named_and_the_others_go_on(
    large: Path, tmp_path: Path
) -> None:
    ended = with_little_memory("segment", str(large), "--out", str(tmp_path / "out"))
    assert ended.returncode == FrameTooLarge.exit_code
    assert "large.tif: it needs more memory" in ended.stderr
    assert "text.tif: not an image" in ended.stderr
    assert "2 of 2 frames failed" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_command_without_memory_says_so(large: Path) -> None:
    tifffile.imwrite(large / "large_labels.tif", np.ones((4, 4), np.uint8))
    ended = with_little_memory("data", "check", str(large))
    assert ended.returncode == MissingPrerequisite.exit_code
    assert "this needs more memory than the machine gives" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_error_is_one_sentence_and_its_exit_code() -> None:
    failed = nuclei("segment", "x.png", "--out", "y", "--save", "svg")
    assert failed.returncode == 2
    assert failed.stderr.startswith("unknown format 'svg'")
    assert len(failed.stderr.strip().splitlines()) == 1


def test_a_name_that_the_system_refuses_is_one_sentence() -> None:
    failed = nuclei("replay", "x" * 5000)
    assert failed.returncode == 2
    assert failed.stderr.endswith("cannot be used: File name too long\n")
    assert len(failed.stderr.strip().splitlines()) == 1


def test_commands_and_client_have_the_same_default_address() -> None:
    # The commands do not import the client, and with it gRPC, before they use it.
    assert gateway.DEFAULT_ADDRESS == connection.DEFAULT_ADDRESS
