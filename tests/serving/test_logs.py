"""What a process logs, in the format and from the level of its settings."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nuclei.client import Client
from nuclei.errors import InvalidOption, ModelNotFound
from nuclei.version import installed_version
from serving.gateway.settings import GatewaySettings
from serving.logs import Event
from serving.settings import ProcessSettings, ServeSettings, read_settings
from serving.triton.server import TritonServer

RunGateway = Callable[..., Any]

STAGES = ("wait", "decode", "tile", "infer", "postprocess", "measure", "quality", "encode")

# Logs an event, an exception and what a library says, and fails if writing any of it fails.
PROGRAM = """
import logging, sys
from serving.logs import Event, write_logs
from serving.settings import ProcessSettings, read_settings
library = logging.getLogger("bentoml.part")
library.addHandler(logging.StreamHandler(sys.stdout))
library.propagate = False
write_logs(read_settings(ProcessSettings), sys.stdout)
ours = logging.getLogger("serving.part")
ours.debug("details")
ours.info(Event("frame", request_id="é 1", total_ms=1.5, age_s=1e999, lost=False, empty=""))
try:
    raise ValueError("two\\nlines")
except ValueError:
    ours.exception("unforeseen")
library.warning("from %s", "elsewhere")
logging.getLogger("other").info("chatter")
"""
# Logs what an attacker would like to see in a log.
HOSTILE_PROGRAM = """
import logging, sys
from serving.logs import Event, write_logs
from serving.settings import ProcessSettings, read_settings
write_logs(read_settings(ProcessSettings), sys.stdout)
hostile = "\\x1b[2J\\r\\n2026 INFO forged " + "x" * 10**6
ours = logging.getLogger("serving.part")
ours.info(Event("frame", detail=hostile))
ours.info("%s", hostile)
try:
    raise ValueError(hostile)
except ValueError:
    ours.exception("unforeseen")
"""


def logged(program: str = PROGRAM, **settings: str) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ended.stderr == ""
    return ended.stdout.splitlines()


def test_event_is_text_of_words_for_any_formatter() -> None:
    event = Event("frame", name="a b", quoted='"', number=1.0, flag=False, empty="", nothing=None)
    assert str(event) == "frame name='a b' quoted='\"' number=1.0 flag=False"
    assert "\n" not in str(Event("frame", detail="one\ntwo"))


def strict(line: str) -> Any:
    """The content of JSON as RFC 8259 has it, without NaN and Infinity."""
    return json.loads(line, parse_constant=pytest.fail)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_nothing_that_is_logged_is_obeyed_forged_or_long(log_format: str) -> None:
    lines = logged(HOSTILE_PROGRAM, NUCLEI_LOG_FORMAT=log_format)
    text = "\n".join(lines)
    assert "forged" in text
    assert len(text) < 64 * 2**10
    assert not [line for line in lines if line.startswith("2026 INFO forged")]
    assert "\x1b" not in text
    assert "\r" not in text


def test_text_is_the_default() -> None:
    lines = logged()
    assert lines[0].endswith("INFO frame request_id='é 1' total_ms=1.5 age_s=inf lost=False")
    assert lines[-1].endswith("WARNING from elsewhere")
    assert "  Traceback (most recent call last):" in lines


def test_json_is_one_object_a_line_with_fields_of_their_types() -> None:
    event, exception, library = map(strict, logged(NUCLEI_LOG_FORMAT="json"))
    assert event.pop("time")[10] == "T"
    assert event == {
        "level": "INFO",
        "logger": "serving.part",
        "message": "frame",
        "request_id": "é 1",
        "total_ms": 1.5,
        "age_s": "inf",
        "lost": False,
    }
    assert exception["message"] == "unforeseen"
    assert exception["exception"].endswith("ValueError: two\nlines")
    assert (library["logger"], library["message"]) == ("bentoml.part", "from elsewhere")


@pytest.mark.parametrize(
    ("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)]
)
def test_level_is_the_least_that_is_written(level: str, count: int) -> None:
    assert len(logged(NUCLEI_LOG_FORMAT="json", NUCLEI_LOG_LEVEL=level)) == count


@pytest.mark.parametrize("setting", ["NUCLEI_LOG_FORMAT", "NUCLEI_LOG_LEVEL"])
@pytest.mark.parametrize("kind", [ServeSettings, GatewaySettings])
def test_wrong_value_is_named(
    monkeypatch: pytest.MonkeyPatch, setting: str, kind: type[ProcessSettings]
) -> None:
    monkeypatch.setenv(setting, "loud")
    with pytest.raises(InvalidOption, match=f"{setting} is impossible"):
        read_settings(kind)


@pytest.fixture(scope="module")
def json_log(
    triton: TritonServer,
    run_gateway: RunGateway,
    tmp_path_factory: pytest.TempPathFactory,
    fluorescence: Path,
) -> str:
    """A gateway's log of a frame that it segmented, and of one with an unknown model."""
    folder = tmp_path_factory.mktemp("json")
    with run_gateway(folder, triton.address, NUCLEI_LOG_FORMAT="json") as gateway:
        gateway.wait_ready()
        with Client(gateway.grpc_address) as client:
            client.segment(fluorescence, request_id="frame-1")
            with pytest.raises(ModelNotFound):
                client.segment(fluorescence, model="nothing")
    return (folder / "gateway.log").read_text()


def test_every_line_of_a_gateway_is_json(json_log: str, version: str) -> None:
    lines = [json.loads(line) for line in json_log.splitlines()]
    (started,) = [line for line in lines if line["message"] == "gateway starting"]
    assert started["server_version"] == installed_version()
    good, bad = [line for line in lines if line["message"] == "frame"]
    named = {
        key: good[key] for key in ("request_id", "code", "model", "version", "method", "protocol")
    }
    assert named == {
        "request_id": "frame-1",
        "code": "OK",
        "model": "unet",
        "version": version,
        "method": "watershed",
        "protocol": "grpc",
    }
    for stage in (*STAGES, "total"):
        assert isinstance(good[f"{stage}_ms"], float)
    assert (bad["code"], bad["error"]) == ("NOT_FOUND", "ModelNotFound")
    assert "'nothing'" in bad["detail"]


def test_bentoml_logs_in_the_same_format(json_log: str) -> None:
    loggers = {json.loads(line)["logger"].partition(".")[0] for line in json_log.splitlines()}
    assert {"serving", "bentoml"} <= loggers


def test_level_warning_silences_a_gateway(
    triton: TritonServer, start_gateway: Callable[..., Any], fluorescence: Path
) -> None:
    gateway = start_gateway(triton.address, NUCLEI_LOG_LEVEL="warning")
    gateway.wait_ready()
    with Client(gateway.grpc_address) as client:
        client.segment(fluorescence)
    assert gateway.process.log.read_text() == ""
