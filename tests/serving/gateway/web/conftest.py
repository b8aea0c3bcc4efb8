"""A browser, and what its pages must never do."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from tests.prerequisites import require_programs

OpenPage = Callable[..., AbstractContextManager[Page]]

# Nothing is fetched from anywhere else, and a container has neither its namespaces nor a GPU.
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of a module: as long as it runs, Playwright's event loop does, beside which no other can."""
    require_programs("chromium", install="apt-get install chromium")
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        running = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Browser, gateway: Any) -> OpenPage:
    """Opens a page of the gateway; it fails where the page writes an error to its console."""

    @contextmanager
    def opened(path: str = "/", url: str = "", **options: Any) -> Iterator[Page]:
        context = browser.new_context(accept_downloads=True, **options)
        page = context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console",
            lambda said: (
                errors.append(said.text)
                if said.type == "error" and "Failed to load resource" not in said.text
                else None
            ),
        )
        page.goto(f"{url or gateway.url}{path}")
        try:
            yield page
        finally:
            context.close()
        assert not errors

    return opened


def violations(page: Page) -> list[str]:
    """What axe finds wrong with a page."""
    found = Axe().run(page, options=RULES).response["violations"]
    return [
        f"{each['id']}: {node['target']} {node['failureSummary']}"
        for each in found
        for node in each["nodes"]
    ]
