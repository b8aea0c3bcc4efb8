"""Prometheus, Alertmanager and the probe on this machine: found, configured, started, watched."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import yaml

from monitoring.monitor.targets import PROBE, Targets
from nuclei.addresses import Tls
from nuclei.errors import EngineFailed, InvalidData, MissingPrerequisite
from nuclei.process.child import Child, private_folder
from nuclei.process.ports import LOOPBACK, free_ports
from nuclei.quoting import listed

CONFIGURATION = Path(__file__).parents[1] / "prometheus"
PROMETHEUS_FILE, ALERTMANAGER_FILE = "prometheus.yml", "alertmanager.yml"

# What Prometheus keeps, whichever comes first.
KEPT = ("--storage.tsdb.retention.time=30d", "--storage.tsdb.retention.size=2GB")
PROBE_EVERY_S = 60

_START_S = 60.0
_STOP_S = 10.0
_POLL_S = 0.1
_ERROR_LINES = 8
# Of each program, Debian's name before that of its authors.
_NAMES = {
    "prometheus": ("prometheus",),
    "promtool": ("promtool",),
    "alertmanager": ("prometheus-alertmanager", "alertmanager"),
}
_PACKAGES = "prometheus prometheus-alertmanager"


def find_programs() -> dict[str, str]:
    """The paths of the programs that are needed, by the name of each.

    Raises:
        MissingPrerequisite: one is not installed; says how to install it.
    """
    found = {}
    for program, names in _NAMES.items():
        path = next((path for name in names if (path := shutil.which(name))), None)
        if path is None:
            raise MissingPrerequisite(
                f"{program} is not installed (looked for {' and '.join(names)} in PATH): "
                f"`apt install {_PACKAGES}`, or unpack it from prometheus.io/download into a "
                "folder of PATH"
            )
        found[program] = path
    return found


class Configuration:
    """Prometheus' and Alertmanager's files of this project, pointed at some targets."""

    def __init__(self, source: Path = CONFIGURATION) -> None:
        """Read them.

        Raises:
            InvalidData: the file of Prometheus is missing, or is no YAML; says where.
        """
        self._source = source
        file = source / PROMETHEUS_FILE
        try:
            self._content: Any = yaml.safe_load(file.read_bytes())
            self.jobs = [each["job_name"] for each in self._content["scrape_configs"]]
        except OSError as error:
            raise InvalidData(f"{file} cannot be read: {error.strerror}") from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = "" if mark is None else f", line {mark.line + 1}"
            raise InvalidData(f"{file}{line}: {error.problem}; expected YAML") from None
        except (yaml.YAMLError, KeyError, TypeError) as error:
            raise InvalidData(
                f"{file} names no jobs ({error!r}); expected Prometheus' scrape_configs, each "
                "with a job_name"
            ) from None

    def write(self, folder: Path, targets: Targets, token: str) -> None:
        """Write a copy that scrapes these targets.

        Args:
            folder: where to; what is there is replaced.
            targets: what is scraped.
            token: of the gateways; empty where they need none.

        Raises:
            OSError: the folder cannot be written.
        """
        shutil.rmtree(folder, ignore_errors=True)
        private_folder(folder)
        for name in (PROMETHEUS_FILE, ALERTMANAGER_FILE):
            shutil.copyfile(self._source / name, folder / name)
        shutil.copytree(self._source / "rules", folder / "rules")
        (folder / "targets").mkdir()
        targets.write(folder / "targets", self.jobs)
        (folder / "gateway.token").write_text(token)
        if targets.tls is not None:
            (folder / PROMETHEUS_FILE).write_text(yaml.safe_dump(self._with_tls(targets)))

    def check(self, folder: Path, promtool: str) -> None:
        """Let promtool read the copy in a folder.

        Raises:
            InvalidData: a file is wrong; names it, and the line.
        """
        run = subprocess.run(
            [promtool, "check", "config", folder / PROMETHEUS_FILE],
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode == 0:
            return
        said = (run.stderr + run.stdout).replace(str(folder), str(self._source))
        lines = [line.strip() for line in said.splitlines()]
        # It also says what it reads and what is right.
        wrong = [each for each in lines if each and not each.startswith(("Checking", "SUCCESS"))]
        raise InvalidData(f"Prometheus refuses its configuration:{listed(wrong)}")

    def _with_tls(self, targets: Targets) -> dict[str, Any]:
        tls = targets.tls
        assert tls is not None, "the gateways have it"
        files = {"ca_file": tls.certificate, "cert_file": tls.own_certificate}
        files |= {"key_file": tls.own_key}
        given = {name: str(file) for name, file in files.items() if file is not None}
        jobs = [
            {**job, "scheme": "https", "tls_config": {**given, "server_name": tls.name}}
            if job["job_name"] == "gateway"
            else job
            for job in self._content["scrape_configs"]
        ]
        return {**self._content, "scrape_configs": jobs}


class Programs:
    """Prometheus, Alertmanager and the probe, which end with the block.

    Attributes:
        prometheus_url, alertmanager_url: where they answer.
        home: folder for their files.
        targets: what is scraped, themselves among it.
        children: the processes.
    """

    def __init__(
        self, home: Path, found: Mapping[str, str], configuration: Configuration, targets: Targets
    ) -> None:
        """Describe them; the block starts them.

        Args:
            home: folder for their files, of this user alone.
            found: their paths.
            configuration: of Prometheus and Alertmanager.
            targets: what is scraped besides themselves; a probe runs where gRPC's address is known.
        """
        prometheus, alertmanager, probe = free_ports(3)
        self.prometheus_url = f"http://{LOOPBACK}:{prometheus}"
        self.alertmanager_url = f"http://{LOOPBACK}:{alertmanager}"
        self._configuration, self._found = configuration, found
        self._folder = home / "configuration"
        own = {
            "prometheus": (f"{LOOPBACK}:{prometheus}",),
            "alertmanager": (f"{LOOPBACK}:{alertmanager}",),
        }
        if targets.grpc is not None:
            own[PROBE] = (f"{LOOPBACK}:{probe}",)
        self.targets = Targets({**targets.addresses, **own}, targets.tls, targets.grpc)
        self.children = [
            self._child(
                "prometheus",
                home,
                f"--config.file={self._folder / PROMETHEUS_FILE}",
                f"--storage.tsdb.path={home / 'prometheus'}",
                *KEPT,
                f"--web.listen-address={LOOPBACK}:{prometheus}",
                "--enable-feature=exemplar-storage",
            ),
            self._child(
                "alertmanager",
                home,
                f"--config.file={self._folder / ALERTMANAGER_FILE}",
                f"--storage.path={home / 'alertmanager'}",
                f"--web.listen-address={LOOPBACK}:{alertmanager}",
                # Alone: it listens for no others.
                "--cluster.listen-address=",
            ),
        ]
        if targets.grpc is not None:
            self.children.append(_probe(home, targets.grpc, targets.tls, probe))
        self.home = home
        self._stack = ExitStack()

    def __enter__(self) -> "Programs":
        """Start them and wait until they answer.

        Raises:
            InvalidData: a file of the configuration is wrong.
            EngineFailed: one of them ended, or does not answer in time.
            OSError: the folder cannot be written.
        """
        private_folder(self.home)
        token = os.environ.get("NUCLEI_TOKEN", "")
        self._configuration.write(self._folder, self.targets, token)
        self._configuration.check(self._folder, self._found["promtool"])
        with ExitStack() as stack:
            for child in self.children:
                child.start()
                stack.callback(child.stop, _STOP_S)
            for child, url in zip(
                self.children, (self.prometheus_url, self.alertmanager_url), strict=False
            ):
                _wait_ready(child, f"{url}/-/ready")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def ended(self) -> dict[str, str]:
        """Those that have ended by themselves: how, by name."""
        return {
            child.name: f"{child.ending}; {child.log} says why"
            for child in self.children
            if not child.running
        }

    def cap_logs(self) -> None:
        """Keep their logs from growing without bound."""
        for child in self.children:
            child.cap_log()

    def _child(self, name: str, home: Path, *options: str) -> Child:
        command = [self._found[name], *options]
        return Child(name, command, os.environ, home / f"{name}.log")


def _probe(home: Path, address: str, tls: Tls | None, port: int) -> Child:
    command: tuple[str, ...] = (
        str(Path(sys.executable).with_name("nuclei")),
        *("probe", "--address", address, "--port", str(port), "--every", str(PROBE_EVERY_S)),
    )
    if tls is not None:
        command += ("--tls-ca", str(tls.certificate))
        if tls.own_certificate is not None:
            command += ("--tls-certificate", str(tls.own_certificate))
            command += ("--tls-key", str(tls.own_key))
    return Child(PROBE, command, os.environ, home / "probe.log")


def _wait_ready(child: Child, url: str) -> None:
    deadline = time.monotonic() + _START_S
    while not _answers(url):
        late = time.monotonic() > deadline
        if late or not child.running:
            how = f"did not answer in {_START_S:.0f} s" if late else f"ended ({child.ending})"
            raise EngineFailed(
                f"{child.name} {how} while it started; the end of {child.log}:"
                f"{listed(child.last_lines(_ERROR_LINES).splitlines())}"
            )
        time.sleep(_POLL_S)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1.0, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
