"""What commands print into files."""

import pytest
from rich.table import Table

from nuclei.console import messages, output, print_error

LONG = "x" * 150


def test_tables_in_a_file_are_as_wide_as_they_need(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    table = Table("name")
    table.add_row(LONG)
    output().print(table)
    printed = capsys.readouterr()
    assert LONG in printed.out
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
