"""The page of models with a real registry, sync, Triton and gateway: `nuclei serve --sync`."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from serving.promotion.artifacts import digest
from serving.promotion.changes import promote, record_gates
from serving.promotion.state import Gates, read_state
from serving.promotion.verdict import Gate, reason
from serving.registry import Registry
from tests.serving.gateway.web.conftest import violations
from tests.serving.promotion.made_models import MODEL, register, write_artifacts
from tests.serving.served import Served

OpenPage = Callable[..., AbstractContextManager[Page]]

pytestmark = [pytest.mark.triton, pytest.mark.slow]

TOKEN, ADMINISTRATOR = "a-token-of-thirty-two-characters", "another-token-of-an-administrator"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
WAIT_MS = 60_000


@dataclass(frozen=True)
class Site:
    """A service that follows a registry."""

    url: str
    registry: Registry

    def post(self, path: str, token: str = ADMINISTRATOR, **body: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"{self.url}/v1/registry/{MODEL}/{path}"
        return httpx.post(url, json=body, headers=headers, timeout=60)


def judge(registry: Registry, version: int, artifacts: Path, dice: float) -> None:
    """Record what `nuclei gate` does."""
    gates = [
        Gate("parity.network", 0.001, "at most 0.02", True, "what serves is what was trained"),
        Gate("accuracy", dice, "at least 0.8", dice >= 0.8, "its score on 40 images"),
    ]
    passed = all(gate.passed for gate in gates)
    with registry.recorded_run("gates") as run:
        run.text(json.dumps({"gates": [asdict(gate) for gate in gates]}), "gates.json")
    tags = Gates(
        verdict="passed" if passed else "refused",
        reason=reason(gates),
        run_id=run.id,
        digest=digest(artifacts),
        against=f"{MODEL} 1",
    )
    record_gates(registry, MODEL, version, tags)


@pytest.fixture(scope="module", autouse=True)
def site(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Version 1 is in use, 2 has passed its gates, 3 was refused by one.

    Before the browser: references are made in an event loop.
    """
    folder = tmp_path_factory.mktemp("site")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    registry = Registry(uri)
    artifacts = write_artifacts(folder / "model")
    for version in (1, 2, 3):
        assert register(uri, artifacts, dsb_score=f"0.8{version}") == version
        judge(registry, version, artifacts, 0.7 if version == 3 else 0.9)
    promote(registry, MODEL, 1)
    served = Served(
        repository,
        folder,
        NUCLEI_SYNC=uri,
        NUCLEI_SYNC_INTERVAL_S="0.5",
        NUCLEI_TOKEN=TOKEN,
        NUCLEI_ADMINISTRATOR_TOKEN=ADMINISTRATOR,
    )
    try:
        served.wait_ready()
        yield Site(served.http_url, registry)
    finally:
        served.process.terminate()
        served.finish()


def test_a_version_is_put_in_use_and_taken_back(open_page: OpenPage, site: Site) -> None:
    with open_page("/models", site.url, viewport={"width": 1280, "height": 900}) as page:
        page.fill("#token-text", TOKEN)
        page.press("#token-text", "Enter")
        expect(page.locator("#registered h2")).to_contain_text(MODEL, timeout=WAIT_MS)
        versions = page.locator(".versions > li")
        expect(versions).to_have_count(3)
        expect(versions.nth(0)).to_contain_text("gates refused Accuracy: its score on 40 images.")
        expect(versions.nth(0).locator("button")).to_have_count(0)
        expect(versions.nth(2)).to_contain_text("in use")
        versions.nth(1).locator("summary").click()
        expect(versions.nth(1).locator(".gates tr")).to_have_count(2)
        assert not violations(page)

        # By the keyboard alone; the token for frames is not enough.
        page.locator(f"#put-{MODEL}-2").press("Enter")
        expect(page.locator("#confirm")).to_contain_text(f"Put version 2 of {MODEL} in use?")
        expect(page.locator("#confirm")).to_contain_text("instead of version 1")
        assert not violations(page)
        page.keyboard.type("better on histology")
        page.keyboard.press("Enter")
        expect(page.locator("#confirm")).to_be_visible()
        page.locator("#confirm-do").press("Enter")
        for token in (TOKEN, ADMINISTRATOR):
            expect(page.locator("#token")).to_be_visible()
            page.fill("#token-text", token)
            page.press("#token-text", "Enter")
        said = page.locator(f"#said-{MODEL}")
        expect(said).to_have_text(re.compile("Version 2 answers, "), timeout=WAIT_MS)
        expect(page.locator("#models")).to_contain_text("Version in use2")
        (change,) = (
            one.change
            for one in read_state(site.registry, MODEL).changes
            if one.change.to_version == 2
        )
        assert change.why == "better on histology"
        assert change.who.endswith("by its page for 127.0.0.1")

        page.locator(f"#back-{MODEL}").press("Enter")
        expect(page.locator("#confirm")).to_contain_text(f"Take back version 2 of {MODEL}?")
        page.locator("#confirm-do").press("Enter")
        expect(said).to_have_text(re.compile("Version 1 answers, "), timeout=WAIT_MS)
        expect(page.locator(".changes li").first).to_contain_text("version 2 taken back, 1 in use")


def test_it_is_accessible_on_a_phone_in_the_dark(open_page: OpenPage, site: Site) -> None:
    with open_page("/models", site.url, color_scheme="dark", **PHONE) as page:
        page.fill("#token-text", TOKEN)
        page.press("#token-text", "Enter")
        expect(page.locator(".versions > li")).to_have_count(3, timeout=WAIT_MS)
        assert not violations(page)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


@pytest.mark.parametrize(("token", "status"), [("", 401), ("x" * 20, 401), (TOKEN, 403)])
def test_only_the_administrator_changes_anything(site: Site, token: str, status: int) -> None:
    answer = site.post("promote", token, version=2, champion=1)
    assert answer.status_code == status
    assert site.registry.model(MODEL).aliases["champion"] == 1


def test_a_change_is_refused_in_words_and_made_once(site: Site) -> None:
    champion = site.registry.model(MODEL).aliases["champion"]
    refused = site.post("promote", version=3, champion=champion)
    assert (refused.status_code, refused.json()["title"]) == (409, "VersionRefused")
    assert "its score on 40 images" in refused.json()["detail"]
    stale = site.post("promote", version=2, champion=7)
    assert (stale.status_code, stale.json()["title"]) == (409, "Conflict")
    stale = site.post("rollback", version=3, champion=2)
    assert (stale.status_code, stale.json()["title"]) == (409, "Conflict")
    again = site.post("promote", version=champion, champion=champion)
    assert again.json() == {"changed": False, "champion": champion}
    unknown = site.post("promote", version=99, champion=champion)
    assert (unknown.status_code, unknown.json()["title"]) == (404, "ModelNotFound")
    bad = site.post("promote", version="two")
    assert (bad.status_code, bad.json()["title"]) == (400, "InvalidOption")
