import shutil
from pathlib import Path

import pytest

from monitoring.monitor.programs import CONFIGURATION, Configuration, find_programs
from monitoring.monitor.targets import Targets
from nuclei.addresses import Tls
from nuclei.errors import InvalidData, MissingPrerequisite
from tests.monitoring.monitor.scraped import INSTALL
from tests.prerequisites import require_programs

NOTHING = Targets({})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the project's configuration, to be spoiled."""
    return shutil.copytree(CONFIGURATION, tmp_path / "source")


def checked(source: Path, folder: Path, targets: Targets = NOTHING) -> None:
    require_programs("promtool", install=INSTALL)
    configuration = Configuration(source)
    configuration.write(folder, targets, "")
    configuration.check(folder, "promtool")


def test_the_projects_configuration_is_right(tmp_path: Path) -> None:
    checked(CONFIGURATION, tmp_path / "copy", Targets({"gateway": ("127.0.0.1:3000",)}))


def test_prometheus_is_told_to_trust_the_gateways_certificate(tmp_path: Path) -> None:
    certificate = tmp_path / "c.pem"
    certificate.write_text("")
    tls = Tls(certificate, "nuclei.example.org")
    checked(CONFIGURATION, tmp_path / "copy", Targets({"gateway": ("127.0.0.1:3000",)}, tls))
    written = (tmp_path / "copy" / "prometheus.yml").read_text()
    for part in ("scheme: https", f"ca_file: {certificate}", "server_name: nuclei.example.org"):
        assert written.count(part) == 1


def test_the_token_is_in_a_file_of_this_user_alone(tmp_path: Path) -> None:
    Configuration().write(tmp_path / "copy", NOTHING, "secret")
    assert (tmp_path / "copy" / "gateway.token").read_text() == "secret"
    assert (tmp_path / "copy").stat().st_mode & 0o077 == 0


def test_a_wrong_rule_is_named_with_its_file_and_line(source: Path, tmp_path: Path) -> None:
    wrong = source / "rules" / "own.yaml"
    wrong.write_text(
        "groups:\n  - name: own\n    rules:\n      - record: a:b\n        expr: sum(\n"
    )
    with pytest.raises(InvalidData, match="parse error") as raised:
        checked(source, tmp_path / "copy")
    assert str(wrong) in str(raised.value)
    assert "4:" in str(raised.value) or "5:" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1", "prometheus.yml, line 1: .*expected YAML"),
        ("scrape_configs: 3", "names no jobs"),
        ("scrape_configs: [{}]", "names no jobs"),
    ],
)
def test_a_wrong_configuration_is_named(source: Path, text: str, expected: str) -> None:
    (source / "prometheus.yml").write_text(text)
    with pytest.raises(InvalidData, match=expected):
        Configuration(source)


def test_says_which_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPrerequisite, match="apt install prometheus prometheus-alertmanager"):
        find_programs()
