"""The thresholds of all alerts, read from one file; what is wrong there is said with its line."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from nuclei.errors import InvalidData
from nuclei.quoting import quoted

ROOT = Path(__file__).parents[1]
THRESHOLDS = ROOT / "monitoring" / "thresholds.yaml"

# The gateway's buckets of nuclei_request_seconds that a latency objective can be counted by.
SECONDS_BUCKETS = (
    0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30,
    60, 120,
)  # fmt: skip

Job = Literal[
    "gateway",
    "triton",
    "sync",
    "probe",
    "mlflow",
    "node",
    "kubernetes",
    "prometheus",
    "alertmanager",
]

_SECONDS = {"y": 31536000, "w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}
_DURATION = re.compile("".join(rf"(?:(\d+){unit})?" for unit in _SECONDS))


def seconds(duration: str) -> float:
    """A Prometheus duration (`1h30m`) in seconds.

    Raises:
        ValueError: it is none.
    """
    match = _DURATION.fullmatch(duration)
    if match is None or not duration:
        raise ValueError("expected a duration such as 30s, 5m, 1h30m or 3d")
    return sum(
        int(number) * factor
        for number, factor in zip(match.groups(), _SECONDS.values(), strict=True)
        if number is not None
    )


def _duration(text: str) -> str:
    seconds(text)
    return text


def _window(text: str) -> str:
    if seconds(text) <= 0:
        raise ValueError("expected a duration above 0, such as 5m")
    return text


def _bucket(value: float) -> float:
    if value not in SECONDS_BUCKETS:
        bounds = ", ".join(f"{bound:g}" for bound in SECONDS_BUCKETS)
        raise ValueError(f"expected the bound of a bucket of nuclei_request_seconds: {bounds}")
    return value


Duration = Annotated[str, AfterValidator(_duration)]
Window = Annotated[str, AfterValidator(_window)]
Share = Annotated[float, Field(gt=0, lt=1)]
Seconds = Annotated[float, AfterValidator(_bucket)]
Receiver = Annotated[dict[str, list[dict[str, Any]]], Field(min_length=1)]


class Section(BaseModel):
    """A part of the file: nothing in it is optional, and nothing else is allowed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Links(Section):
    runbooks: str
    grafana: str


class Scrape(Section):
    interval: Window
    evaluation: Window
    expected: list[Job]


class Notifications(Section):
    page: Receiver
    ticket: Receiver
    group_wait: Duration
    group_interval: Window
    repeat_page: Window
    repeat_ticket: Window


class Availability(Section):
    objective: Share
    failures: Annotated[
        list[Literal["INTERNAL", "UNAVAILABLE", "FAILED_PRECONDITION"]], Field(min_length=1)
    ]


class SecondsBySize(Section):
    small: Seconds
    medium: Seconds
    large: Seconds


class Latency(Section):
    objective: Share
    seconds: SecondsBySize


class BurnRate(Section):
    factor: Annotated[float, Field(gt=0)]
    long: Window
    short: Window


class BurnRates(Section):
    least_bad_frames: Annotated[int, Field(ge=1)]
    fast: BurnRate
    slow: BurnRate
    ticket: BurnRate


class TritonScaling(Section):
    busy_instances: Annotated[float, Field(gt=0)]
    queue_seconds: Annotated[float, Field(gt=0)]
    waiting_frames: Annotated[float, Field(gt=0)]


class GatewayScaling(Section):
    held_frames: Annotated[float, Field(gt=0)]
    work_seconds: Annotated[float, Field(gt=0)]


class Scaling(Section):
    window: Window
    triton: TritonScaling
    gateway: GatewayScaling


class Lasting(Section):
    """Attributes: lasting: how long the condition has to hold (`for`)."""

    lasting: Annotated[Duration, Field(alias="for")]


class Silence(Lasting):
    silent: Window


class FailedShare(Lasting):
    window: Window
    failed_share: Share


class Queue(Lasting):
    window: Window
    waiting_frames: Annotated[float, Field(gt=0)]
    refused_share: Share


class Memory(Lasting):
    machine_share: Share
    gateway_bytes: Annotated[int, Field(gt=0)]


class Lag(Lasting):
    behind: Window


class Event(Section):
    window: Window


class Drift(Lasting):
    least_frames: Annotated[int, Field(ge=1)]


class FrameShare(Lasting):
    window: Window
    share: Share
    least_frames: Annotated[int, Field(ge=1)]


class Score(Lasting):
    window: Window
    score: Share
    least_frames: Annotated[int, Field(ge=1)]


class Expiry(Section):
    ticket_days: Annotated[float, Field(gt=0)]
    page_days: Annotated[float, Field(gt=0)]


class Disk(Lasting):
    free_share: Share


class Alerts(Section):
    """By the names of the alerts; those of the objectives have none of their own."""

    ServiceDown: Lasting
    ProbeFailing: Silence
    TritonDown: Lasting
    TritonUnreached: Lasting
    TritonInstanceDead: FailedShare
    QueueGrowing: Queue
    MemoryHigh: Memory
    SyncFailing: Lasting
    SyncLagging: Lag
    ChampionDiffers: Lasting
    RolloutAborted: Event
    VersionRefused: Event
    QualityDrift: Drift
    EmptyFrames: FrameShare
    DoubtfulFrames: FrameShare
    EstimatedScoreLow: Score
    CertificateExpires: Expiry
    DiskFull: Disk
    TargetMissing: Lasting


class Thresholds(Section):
    links: Links
    scrape: Scrape
    notifications: Notifications
    availability: Availability
    latency: Latency
    burn_rates: BurnRates
    scaling: Scaling
    alerts: Alerts


def read_thresholds(file: Path = THRESHOLDS) -> Thresholds:
    """The thresholds in a file.

    Raises:
        InvalidData: it cannot be read, is no YAML, or a value is impossible; says the line and the
            field.
    """
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidData(f"the thresholds cannot be read: {error}") from None
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        values = None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise InvalidData(f"{_place(file, mark)}: {error.problem}; expected YAML") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidData(f"{file}: {error}; expected YAML") from None
    _refuse_repeated(file, root)
    try:
        return Thresholds.model_validate(values)
    except ValidationError as error:
        # What is unknown first: it is mostly what another field lacks.
        faults = sorted(error.errors(include_url=False), key=lambda fault: fault["type"])
        raise InvalidData("\n".join(_message(file, root, fault) for fault in faults)) from None


def _place(file: Path, mark: yaml.Mark | None) -> str:
    return str(file) if mark is None else f"{file}, line {mark.line + 1}"


def _message(file: Path, root: yaml.Node | None, fault: ErrorDetails) -> str:
    location = fault["loc"]
    if fault["type"] == "missing":
        what = "is missing"
    elif fault["type"] == "extra_forbidden":
        what = f"is unknown{_likely(location)}"
    else:
        what = f"is {quoted(fault['input'])}: {fault['msg'].removeprefix('Value error, ')}"
    field = ".".join(map(str, location)) or "the file"
    return f"{_place(file, _mark(root, location))}: {field} {what}"


def _refuse_repeated(file: Path, node: yaml.Node | None) -> None:
    """Raises InvalidData for a key that is there twice: YAML would take the last one in silence."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated(file, item)
    if not isinstance(node, yaml.MappingNode):
        return
    known: set[str] = set()
    for key, value in node.value:
        if key.value in known:
            raise InvalidData(
                f"{_place(file, key.start_mark)}: {key.value} is there twice; keep one of them"
            )
        known.add(key.value)
        _refuse_repeated(file, value)


def _mark(node: yaml.Node | None, place: Sequence[int | str]) -> yaml.Mark | None:
    """Where a field is, or the section that lacks it."""
    mark = None if node is None else node.start_mark
    for name in place:
        if isinstance(node, yaml.SequenceNode) and isinstance(name, int):
            node = node.value[name]
            mark = node.start_mark
        elif isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(name)]
            if not found:
                break
            (key, node), *_ = found
            mark = key.start_mark
    return mark


def _likely(place: Sequence[int | str]) -> str:
    """What the unknown field was probably meant to be."""
    section: Any = Thresholds
    for name in place[:-1]:
        field = section.model_fields.get(str(name)) if hasattr(section, "model_fields") else None
        section = field.annotation if field is not None else None
    names = [field.alias or name for name, field in getattr(section, "model_fields", {}).items()]
    close = get_close_matches(str(place[-1]), names, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; expected one of: {', '.join(names)}" if names else ""
