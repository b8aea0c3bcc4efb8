"""What every example client does, in any language."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from nuclei.client import Client

if TYPE_CHECKING:
    from tests.conftest import Gateway

ANSWER_S = 60


class Program:
    """A built example client."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        self._command = command

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *arguments], capture_output=True, text=True, timeout=ANSWER_S
        )


class ClientContract:
    """A subclass gives a fixture `program`, the built client."""

    @pytest.mark.parametrize("name", ["fluorescence", "fluorescence_16bit", "histology"])
    def test_finds_what_the_python_client_finds(
        self,
        program: Program,
        gateway: "Gateway",
        client: Client,
        name: str,
        request: pytest.FixtureRequest,
    ) -> None:
        frame: Path = request.getfixturevalue(name)
        expected = client.segment(frame)
        ended = program.run("segment", "--address", gateway.grpc_address, frame)
        assert (ended.returncode, ended.stderr) == (0, "")
        first, *nuclei, last = ended.stdout.splitlines()
        count = len(expected.nuclei)
        assert first == f"{expected.model} version {expected.version}: {count} nuclei"
        for line, label, (y, x) in zip(
            nuclei, expected.nuclei.label[:3], expected.nuclei.centroid_px[:3], strict=True
        ):
            found = re.fullmatch(r"nucleus (\d+) at x ([\d.]+), y ([\d.]+)", line)
            assert found is not None
            assert int(found[1]) == label
            assert (float(found[2]), float(found[3])) == pytest.approx((x, y), rel=1e-5)
        height, width = expected.labels.shape
        assert last == f"label image {height} x {width}: {count} labels"

    def test_warnings_are_printed(
        self, program: Program, gateway: "Gateway", tmp_path: Path
    ) -> None:
        frame = tmp_path / "float.tif"
        tifffile.imwrite(frame, np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64))
        ended = program.run("segment", "--address", gateway.grpc_address, frame)
        assert ended.returncode == 0
        assert ended.stderr.startswith("warning: the pixels are float32 from 0 to 1")

    def test_stream_answers_every_frame_in_order(
        self,
        program: Program,
        gateway: "Gateway",
        client: Client,
        fluorescence: Path,
        histology: Path,
    ) -> None:
        frames = [fluorescence, histology, fluorescence, histology, histology]
        counts = {frame: len(client.segment(frame).nuclei) for frame in set(frames)}
        ended = program.run("stream", "--address", gateway.grpc_address, *frames)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.splitlines() == [
            f"frame {sequence}: {counts[frame]} nuclei" for sequence, frame in enumerate(frames)
        ]

    def test_stream_goes_on_after_the_error_of_a_frame(
        self, program: Program, gateway: "Gateway", fluorescence: Path
    ) -> None:
        frames = [fluorescence, Path(__file__), fluorescence]
        ended = program.run("stream", "--address", gateway.grpc_address, *frames)
        assert (ended.returncode, ended.stderr) == (1, "")
        before, failed, after = ended.stdout.splitlines()
        assert before.endswith("nuclei")
        assert failed.startswith("frame 1: InvalidImage: not an image")
        assert after == before.replace("0", "2", 1)

    def test_stream_skips_frames_as_the_policy_says(
        self, program: Program, gateway: "Gateway", fluorescence: Path
    ) -> None:
        options = ("--address", gateway.grpc_address, "--overflow", "latest_only")
        ended = program.run("stream", *options, *[fluorescence] * 30)
        assert (ended.returncode, ended.stderr) == (0, "")
        lines = ended.stdout.splitlines()
        assert [line.split(":")[0] for line in lines] == [f"frame {i}" for i in range(30)]
        assert any("skipped" in line and "LATEST_ONLY" in line for line in lines)
        assert lines[-1].endswith("nuclei")

    @pytest.mark.parametrize("command", ["segment", "stream"])
    def test_unknown_model_is_named(
        self, program: Program, gateway: "Gateway", fluorescence: Path, command: str
    ) -> None:
        options = ("--address", gateway.grpc_address, "--model", "nope")
        ended = program.run(command, *options, fluorescence)
        assert ended.returncode == 1
        assert "ModelNotFound: there is no model 'nope'" in ended.stdout + ended.stderr

    @pytest.mark.parametrize("command", ["segment", "stream"])
    def test_absent_server_is_an_error(
        self, program: Program, fluorescence: Path, command: str
    ) -> None:
        ended = program.run(command, "--address", "127.0.0.1:1", fluorescence)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.startswith("gRPC status 14: ")

    def test_deadline_ends_the_call(
        self, program: Program, gateway: "Gateway", fluorescence: Path
    ) -> None:
        options = ("--address", gateway.grpc_address, "--timeout", "0.001")
        ended = program.run("segment", *options, fluorescence)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.startswith(("gRPC status 4: ", "DeadlineExceeded: "))

    @pytest.mark.parametrize("command", ["segment", "stream"])
    def test_unreadable_file_is_an_error(
        self, program: Program, gateway: "Gateway", command: str
    ) -> None:
        ended = program.run(command, "--address", gateway.grpc_address, "absent.png")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "absent.png" in ended.stderr

    @pytest.mark.parametrize(
        "arguments", [(), ("segment",), ("stream", "--overflow", "none", "frame.png")]
    )
    def test_wrong_usage_is_explained(self, program: Program, arguments: tuple[str, ...]) -> None:
        ended = program.run(*arguments)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert "--overflow POLICY" in ended.stderr
