"""The one file of thresholds: what is wrong in it is said with its line and its field."""

from pathlib import Path

import pytest

from monitoring.thresholds import (
    SECONDS_BUCKETS,
    THRESHOLDS,
    SecondsBySize,
    read_thresholds,
    seconds,
)
from nuclei.errors import InvalidData
from serving.gateway import metrics

TEXT = THRESHOLDS.read_text()


def line_of(text: str) -> int:
    """Number of the line of the file that has this text."""
    (number,) = (n for n, line in enumerate(TEXT.splitlines(), 1) if text in line)
    return number


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("objective: 0.999", "objective: 99.9", "availability.objective is 99.9: Input should"),
        ("ServiceDown: {for: 1m}", "ServiceDown: {for: 1 minute}", "alerts.ServiceDown.for is"),
        ("ServiceDown: {for: 1m}", "ServiceDown: {for: 60}", "alerts.ServiceDown.for is 60"),
        ("ServiceDown: {for: 1m}", "ServiceDown: {}", "alerts.ServiceDown.for is missing"),
        ("medium: 5,", "medium: 4,", "expected the bound of a bucket of nuclei_request_seconds"),
        ("share: 0.5,", "share: half,", "alerts.EmptyFrames.share is 'half'"),
        ("SyncFailing: {", "SyncFails: {", "alerts.SyncFails is unknown; did you mean SyncFailing"),
        ("long: 3d", "long: 0d", "expected a duration above 0"),
        ("[INTERNAL, UNAVAILABLE]", "[INTERNAL, BAD]", "availability.failures.1 is 'BAD'"),
        ("[gateway, triton, probe]", "[gateway, mars]", "scrape.expected.1 is 'mars'"),
        ("evaluation: 15s", "evaluation: 15s\n  evaluation: 5s", "evaluation is there twice"),
    ],
)
def test_an_impossible_value_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    file = tmp_path / "thresholds.yaml"
    file.write_text(TEXT.replace(old, new))
    number = line_of(old) + new.count("\n")
    with pytest.raises(InvalidData) as error:
        read_thresholds(file)
    assert str(error.value).startswith(f"{file}, line {number}: ")
    assert expected in str(error.value)


def test_what_is_missing_is_named_with_the_line_of_its_section(tmp_path: Path) -> None:
    file = tmp_path / "thresholds.yaml"
    file.write_text(TEXT.replace("  DiskFull: {for: 10m, free_share: 0.1}\n", ""))
    with pytest.raises(InvalidData, match=rf", line {line_of('alerts:')}: alerts.DiskFull is miss"):
        read_thresholds(file)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("links: {\n", ", line 2: "),
        ("links:\n\trunbooks: x\n", ", line 2: "),
        ("", "the file is None: Input should be"),
        ("- 1\n", "line 1: the file is"),
        ("\x00", "expected YAML"),
    ],
)
def test_what_is_no_file_of_thresholds_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "thresholds.yaml"
    file.write_text(text)
    with pytest.raises(InvalidData) as error:
        read_thresholds(file)
    assert expected in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"nowhere\.yaml"):
        read_thresholds(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("duration", "expected"),
    [("30s", 30), ("5m", 300), ("1h30m", 5400), ("3d", 259200), ("1500ms", 1.5), ("0s", 0)],
)
def test_durations_are_those_of_prometheus(duration: str, expected: float) -> None:
    assert seconds(duration) == expected


@pytest.mark.parametrize("duration", ["", "5", "m", "5 m", "30m1h", "1.5h", "-5m", "5min"])
def test_other_durations_are_refused(duration: str) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        seconds(duration)


def test_sizes_and_buckets_are_the_gateways() -> None:
    """A bound that is no bucket would match no series: its alerts would never fire."""
    assert SECONDS_BUCKETS == metrics.SECONDS_BUCKETS
    assert list(SecondsBySize.model_fields) == [*metrics.SIZES, metrics.LARGE]
