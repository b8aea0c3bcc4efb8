"""What commands print into files."""

import os
from collections import Counter

import pytest
from rich.table import Table

from nuclei.console import messages, output, print_error, print_warnings

LONG = "x" * 150
# What a file may be called, and what must be shown of it.
HOSTILE = "[dapi] [/x] :smile: \x1b[2J\x1b]0;title\x07 \u202egnp.exe"
SHOWN = r"[dapi] [/x] :smile: \x1b[2J\x1b]0;title\x07 \u202egnp.exe"


def test_tables_in_a_file_are_as_wide_as_they_need(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    table = Table("name")
    table.add_row(LONG)
    output().print(table)
    output().print(Table("name", title=f"{LONG} {LONG}"))
    printed = capsys.readouterr()
    assert LONG in printed.out
    assert f"{LONG} {LONG}" in printed.out
    assert not printed.err


def test_an_error_is_one_line_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    sentence = f"[red] is not a model; {LONG} {LONG}"
    print_error(ValueError(sentence))
    printed = capsys.readouterr()
    assert printed.err == f"{sentence}\n"
    assert not printed.out


def test_messages_leave_the_output_to_results(capsys: pytest.CaptureFixture[str]) -> None:
    messages().print("reading")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "reading\n")


def test_warnings_of_many_frames_are_counted_and_bounded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_warnings(Counter({"doubtful": 30} | {f"rare {n}": 1 for n in range(100)}))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "30 x doubtful"
    assert lines[-1] == "and 91 other warnings"
    assert len(lines) == 11


def test_names_are_text_in_sentences_titles_and_cells(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(f"column {HOSTILE}", title=f"title {HOSTILE}", caption=f"caption {HOSTILE}")
    table.add_row(f"cell {HOSTILE}")
    output().print(f"sentence {HOSTILE}")
    output().print(table)
    print_error(f"error {HOSTILE}")
    printed = capsys.readouterr()
    for part in ("sentence", "title", "caption", "column", "cell"):
        assert f"{part} {SHOWN}" in printed.out
    assert printed.err == f"error {SHOWN}\n"
    assert "\x1b" not in printed.out


def test_names_that_are_no_text_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    output().print(os.fsdecode(b"frame\xff.tif"))
    assert capsys.readouterr().out == "frame\\udcff.tif\n"


def test_a_table_in_a_file_is_as_wide_as_its_longest_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = Table("name", "path")
    table.add_row(LONG, 5 * LONG)
    output().print(table)
    assert 5 * LONG in capsys.readouterr().out
