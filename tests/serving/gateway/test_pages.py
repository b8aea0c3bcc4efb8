"""The files of the pages, as a real gateway serves them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.gateway.pages import FOLDER, PAGES


@pytest.fixture(scope="module")
def http(gateway: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=60) as connected:
        yield connected


@pytest.mark.parametrize("path", PAGES)
def test_a_page_may_load_only_what_the_gateway_serves(http: httpx.Client, path: str) -> None:
    page = http.get(path)
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for name in re.findall(r'(?:src|href)="([^"#]+)"', page.text):
        assert name.startswith("/"), name
        found = http.get(name)
        assert found.status_code == 200, name
        assert found.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<(style|script)>|\sstyle=|\son\w+=", page.text)


def test_what_a_browser_has_is_not_sent_again(http: httpx.Client) -> None:
    first = http.get("/web/style.css")
    again = http.get("/web/style.css", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["../pages.py", "nothing.js", "vendor/openseadragon.LICENSE.txt"])
def test_no_other_file_is_served(http: httpx.Client, name: str) -> None:
    assert http.get(f"/web/{name}").status_code == 404


def test_modules_import_only_files_that_are_there() -> None:
    for module in FOLDER.glob("*.js"):
        for name in re.findall(r'from "\./([^"]+)"', module.read_text()):
            assert (FOLDER / name).exists(), f"{module.name} imports {name}"


def test_vendored_code_comes_with_its_licence() -> None:
    notice = (Path(__file__).parents[3] / "NOTICE").read_text()
    for code in (FOLDER / "vendor").glob("*.js"):
        name = code.name.split(".")[0]
        assert (FOLDER / "vendor" / f"{name}.LICENSE.txt").exists()
        assert name in notice.lower()
