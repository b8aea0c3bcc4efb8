"""The documents in docs/ as HTML: the runbooks of the alerts, and what they lead to."""

from pathlib import Path

from markdown_it import MarkdownIt
from markupsafe import Markup

from nuclei.names import is_name

FOLDER = Path(__file__).parents[2] / "docs"
RUNBOOKS = "runbooks"

# HTML in a document is shown as text, and links to scripts are no links.
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")


def as_html(markdown: str) -> Markup:
    """Markdown as HTML that holds no markup but its own."""
    return Markup(_MARKDOWN.render(markdown))


def inline(markdown: str) -> Markup:
    """One line of Markdown, without a paragraph around it."""
    return Markup(_MARKDOWN.renderInline(markdown))


class Documents:
    """The Markdown files of a folder and its folder of runbooks."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder

    def runbook(self, alert: str) -> str | None:
        """The path of an alert's page below the folder; None where there is none."""
        path = f"{RUNBOOKS}/{alert}.md"
        return path if self._file(path) else None

    def html(self, path: str) -> Markup | None:
        """A document; None where there is none of that path below the folder."""
        file = self._file(path)
        return None if file is None else as_html(file.read_text())

    def _file(self, path: str) -> Path | None:
        name = path.removeprefix(f"{RUNBOOKS}/")
        if not is_name(name) or not name.endswith(".md"):
            return None
        file = self._folder / path
        return file if file.is_file() else None
