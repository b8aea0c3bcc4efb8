import pytest

from monitoring.monitor.documents import FOLDER, Documents, as_html


def test_markdown_becomes_html() -> None:
    html = as_html("# Title\n\nSee `nuclei probe`.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")
    for part in ("<h1>Title</h1>", "<code>nuclei probe</code>", "<td>1</td>"):
        assert part in html


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[click](javascript:alert(1))",
        "![x](javascript:alert(1))",
        "[x](data:text/html;base64,PHNjcmlwdD4=)",
        '[x](https://x "onmouseover=alert(1)")\n<a href=javascript:alert(1)>',
    ],
)
def test_no_markup_of_a_page_is_taken_over(hostile: str) -> None:
    html = as_html(f"{hostile}\n\ntext {hostile} text")
    for tag in ("<script", "<img src=x", "<a href=javascript", 'href="javascript', 'href="data:'):
        assert tag not in html
    assert 'src="javascript' not in html


@pytest.mark.parametrize(
    "path",
    [
        *("", "..", "../README.md", "/etc/passwd", "runbooks", "runbooks/../../README.md"),
        *("runbooks/ServiceDown", "architecture.svg", "a/b.md", "runbooks//etc/passwd.md"),
    ],
)
def test_only_documents_of_the_folder_are_found(path: str) -> None:
    assert Documents().html(path) is None


def test_every_document_of_the_project_is_shown() -> None:
    paths = [str(file.relative_to(FOLDER)) for file in FOLDER.rglob("*.md")]
    assert paths
    for path in paths:
        assert "<h1>" in (Documents().html(path) or ""), path


def test_an_alert_has_the_page_of_its_name() -> None:
    assert Documents().runbook("ServiceDown") == "runbooks/ServiceDown.md"
    for other in ("NoSuchAlert", "../README", "ServiceDown.md"):
        assert Documents().runbook(other) is None
