"""What the documents name exists: files, headings, modules, commands and their options, targets."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import typer.main

from nuclei.cli.app import app
from nuclei.results.nuclei import Nuclei

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    document
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "benchmarks/*.md")
    for document in ROOT.glob(pattern)
    if "node_modules" not in document.parts
)
TOP_FOLDERS = sorted(path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != ".")

LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
FENCED = re.compile(r"^( *)```\w*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}(?=\S).*$", re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
PATH = re.compile(rf"(?<![\w./-])(?:{'|'.join(TOP_FOLDERS)})/[\w./-]*")
MODULE = re.compile(r"(?:monitoring|nuclei|serving|training)(?:\.\w+)+")
COMMAND = re.compile(r"(?:^|[\s=(])(?:[A-Z_]+=\S+ +)*(?:\S*/bin/)?(?<!from )nuclei +(.+)")
TARGET = re.compile(r"(?:^|\s)make +([a-z][a-z0-9-]*)")
# Placeholders that a reader replaces.
PLACEHOLDER = re.compile(r"NAME|FAMILY")
# A result has `nuclei`, and so do the names of files.
COLUMNS = [*(f"nuclei.{field.name}" for field in fields(Nuclei)), "nuclei.csv", "nuclei.parquet"]
# Also names what existed before.
CHANGELOG = ROOT / "CHANGELOG.md"


def _name(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.fixture(params=[path for path in DOCUMENTS if path != CHANGELOG], ids=_name)
def document(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_links_lead_to_files_and_headings(document: Path) -> None:
    for link in LINK.findall(document.read_text()):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in {_slug(heading) for heading in HEADING.findall(target.read_text())}


def test_the_files_that_are_named_exist(document: Path) -> None:
    named = {path.rstrip("./") for path in PATH.findall(_without_links(document.read_text()))}
    assert not {path for path in named if not _is_made_by_readers(path) and not _exists(path)}


def test_the_modules_that_are_named_exist(document: Path) -> None:
    for code in INLINE.findall(document.read_text()):
        # Packages of the proto hold messages by their protobuf names.
        if MODULE.fullmatch(code) and not code.startswith(("nuclei.v1", "nuclei.v2", *COLUMNS)):
            resolve_name(code)


def test_the_commands_and_options_that_are_named_exist(document: Path) -> None:
    for line in _code(document.read_text()):
        for words in COMMAND.findall(line):
            _check_command(words)


def test_the_targets_of_make_that_are_named_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for line in _code(document.read_text()) for name in TARGET.findall(line)}
    assert named <= targets


def _check_command(words: str) -> None:
    command: Any = typer.main.get_command(app)
    for word in _words(words):
        if word.startswith("-"):
            options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
            assert word.partition("=")[0] in options | {"-h", "--help"}, words
        elif commands := getattr(command, "commands", {}):
            if PLACEHOLDER.fullmatch(word):
                return
            assert word in commands, words
            command = commands[word]


def _words(words: str) -> list[str]:
    """The text up to the end of a command: a comment, a pipe, the next command."""
    try:
        split = shlex.split(words, comments=True)
    except ValueError:
        split = words.split()
    ends = (n for n, word in enumerate(split) if word[0:1] in ("|", "&", ";", "(") or word == "")
    return split[: next(ends, None)]


def _code(text: str) -> Iterator[str]:
    """The lines of code blocks, continued ones joined, and the text between backticks."""
    for _, block in FENCED.findall(text):
        yield from block.replace("\\\n", " ").splitlines()
    prose = FENCED.sub("", text)
    yield from (line.strip() for line in INDENTED.findall(prose.replace("\\\n", " ")))
    yield from INLINE.findall(prose)


def _without_links(text: str) -> str:
    return re.sub(r"\w+://\S+", "", text)


def _is_made_by_readers(path: str) -> bool:
    return bool(PLACEHOLDER.search(path)) or "build" in Path(path).parts


def _exists(path: str) -> bool:
    return any(ROOT.glob(path)) or (ROOT / path).exists()


def _slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower())
    return plain.strip().replace(" ", "-")
