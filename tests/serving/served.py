"""`nuclei serve`, started as a user starts it."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from nuclei.process.ports import LOOPBACK, free_ports

NUCLEI = str(Path(sys.executable).with_name("nuclei"))
START_S = 120.0
STOP_S = 60.0


class Served:
    """A running `nuclei serve`, from a folder that is not the project's."""

    def __init__(
        self, repository: Path, folder: Path, within: Sequence[str] = (), **settings: str
    ) -> None:
        """Start it.

        Args:
            repository: model repository.
            folder: where it runs, and writes to `.state`.
            within: a command that runs it, such as `nsenter`, by replacing itself.
            settings: NUCLEI_... variables.
        """
        self.http_port, self.grpc_port, self.triton_metrics_port = free_ports(3)
        ports = {"NUCLEI_TRITON_METRICS_PORT": str(self.triton_metrics_port)}
        command = [
            *within,
            *(NUCLEI, "serve", "--repository", str(repository)),
            *("--http-port", str(self.http_port), "--grpc-port", str(self.grpc_port)),
        ]
        self.log = folder / "serve.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **ports, **settings},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return self.log.read_text()

    def wait_ready(self, seconds: float = START_S) -> None:
        deadline = time.monotonic() + seconds
        while "Ready in" not in self.output or "logs" not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.1)

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def finish(self) -> int:
        return self.process.wait(STOP_S)

    @property
    def http_url(self) -> str:
        return f"http://{LOOPBACK}:{self.http_port}"

    @property
    def grpc_address(self) -> str:
        return f"{LOOPBACK}:{self.grpc_port}"

    def part(self, *words: str) -> psutil.Process:
        """The part whose command line has all these words in its arguments."""
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                arguments = process.cmdline()
                if all(any(word in each for each in arguments) for word in words):
                    return process
        raise LookupError(f"no part of the service has {words} in its command line")

    @property
    def gateway(self) -> psutil.Process:
        """The process of the gateway that serves, which another one has forked."""
        for process in self.part("serving.gateway").children():
            return process
        raise LookupError("no gateway serves")
