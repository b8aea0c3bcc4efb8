"""The page /monitor, asked as a browser asks it, of a real Prometheus."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from monitoring.boards import dashboards
from monitoring.monitor.documents import Documents
from monitoring.monitor.server import server
from monitoring.panels import (
    Dashboard,
    Event,
    Kind,
    Limit,
    Note,
    Panel,
    Query,
    Row,
    Unit,
    Variable,
)
from monitoring.thresholds import read_thresholds
from nuclei.process.ports import LOOPBACK, free_ports
from tests.monitoring.monitor.scraped import Urls

SCRAPE_INTERVAL_S = 1


def panel(title: str, expression: str, unit: Unit = Unit.COUNT, **options: object) -> Panel:
    return Panel(
        title, f"What of {title}?", (Query(expression, "{{name}}{{model}}"),), unit, **options
    )


BOARD = Dashboard(
    "test",
    "Test",
    "Does the page work?",
    (
        Row(
            "All kinds",
            (
                panel("Hot", "test_temperature", kind=Kind.STAT, limit=Limit(10)),
                panel("Warm", "test_temperature", kind=Kind.STAT, limit=Limit(10, below=True)),
                panel("Share", "test_share", Unit.SHARE, stacked=True, limit=Limit(0.5)),
                panel(
                    "Seconds",
                    "sum by (le) (rate(test_seconds_bucket[$__rate_interval]))",
                    Unit.SECONDS,
                    kind=Kind.HEATMAP,
                ),
                panel("Up", 'min(up{job="gateway"})', Unit.YES_NO, kind=Kind.STEPS),
                panel("Chosen", 'test_frames_total{model=~"$model"} * $price'),
                panel("Wrong", "sum("),
                panel("Missing", "nuclei_sync_nothing_total"),
                panel("Silent", 'test_temperature{name!="nuclei_no_metric"} > 1000'),
                Note("Note", "Some *words* <i>of ours</i>."),
            ),
        ),
    ),
    (
        Variable("model", "Model", "label_values(test_frames_total, model)"),
        Variable("price", "Price", "", every="1"),
    ),
    (Event("Started", "test_temperature > 1", "at {{instance}}", "green"),),
)


@pytest.fixture
def documents(tmp_path: Path) -> Documents:
    (tmp_path / "runbooks").mkdir()
    text = "# TooHot\n\nOpen a <script>alert(1)</script> window.\n"
    (tmp_path / "runbooks" / "TooHot.md").write_text(text)
    return Documents(tmp_path)


@pytest.fixture
def browse(documents: Documents) -> Iterator[Callable[..., TestClient]]:
    clients = []

    def client(urls: Urls, *problems: str) -> TestClient:
        app = server(*urls, [BOARD], SCRAPE_INTERVAL_S, lambda: problems, documents)
        clients.append(TestClient(app, base_url=f"http://{LOOPBACK}"))
        return clients[-1].__enter__()

    yield client
    for each in clients:
        each.__exit__(None, None, None)


@pytest.fixture
def page(urls: Urls, browse: Callable[..., TestClient]) -> str:
    reply = browse(urls).get("/monitor")
    assert reply.status_code == 200, reply.text
    return reply.text


def section(page: str, title: str) -> str:
    """The panel of this title."""
    (found,) = (
        each
        for each in re.findall(r"<section .*?</section>", page, re.DOTALL)
        if f"<h3>{title}</h3>" in each
    )
    return found


def test_each_kind_of_panel_shows_its_values_in_its_unit(page: str) -> None:
    assert '<p class="value bad"><strong>12</strong>' in section(page, "Hot")
    assert "limit: above 10 is wrong" in section(page, "Hot")
    assert '<p class="value good"><strong>12</strong>' in section(page, "Warm")
    assert '<td class="now">25 %</td>' in section(page, "Share")
    assert 'class="area s0"' in section(page, "Share")
    assert 'class="limit"' in section(page, "Share")
    cells = section(page, "Seconds")
    assert 'class="cell"' in cells
    assert "100 ms to 250 ms: " in cells
    assert "no from " in section(page, "Up")
    assert 'class="bad"' in section(page, "Up")
    assert "What of Up?" in section(page, "Up")
    assert "Some <em>words</em> &lt;i&gt;of ours" in section(page, "Note")
    assert page.count("Started: at ") == 1


def test_says_why_a_panel_has_no_data(page: str) -> None:
    assert "Prometheus refuses a query of this panel" in section(page, "Wrong")
    assert "parse error" in section(page, "Wrong")
    missing = section(page, "Missing")
    assert "Prometheus has no nuclei_sync_nothing_total; nothing is scraped as sync" in missing
    assert "nothing was counted in this time" in section(page, "Silent")


def test_alerts_are_on_top_and_lead_to_their_runbooks(page: str) -> None:
    (alerts,) = re.findall(r'<section class="alerts".*?</section>', page, re.DOTALL)
    assert page.index(alerts) < page.index("<h1>")
    assert '<a href="/monitor/docs/runbooks/TooHot.md">TooHot</a>' in alerts
    assert "firing, page" in alerts
    assert "It is &lt;b&gt;hot&lt;/b&gt;." in alerts
    # One that another explains is apart; without a page it is no link.
    assert "Unheard" not in alerts
    (apart,) = re.findall(r'<details class="suppressed".*?</details>', page, re.DOTALL)
    assert "1 more that another alert explains" in apart
    assert "Unheard" in apart
    assert "Unheard.md" not in apart
    assert "gateway down" in page
    assert "connection refused" in page


def test_nothing_of_others_becomes_markup(
    page: str, urls: Urls, browse: Callable[..., TestClient]
) -> None:
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    runbook = browse(urls).get("/monitor/docs/runbooks/TooHot.md")
    assert runbook.status_code == 200
    assert "<script>" not in runbook.text
    assert "&lt;script&gt;" in runbook.text


def test_nothing_is_inline_or_from_elsewhere(
    page: str, urls: Urls, browse: Callable[..., TestClient]
) -> None:
    """What the policy for the browser would refuse is not there."""
    assert "style=" not in page
    assert not re.search(r"<script(?! src=\"/monitor/static/)", page)
    assert not re.search(r"(?:src|href)=\"(?!/monitor|\?|#)", page)
    client = browse(urls)
    for path in ("/monitor/test", "/monitor/static/monitor.js", "/nothing", "/monitor/nothing"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"], path
        assert "unsafe" not in headers["content-security-policy"]
    for file in re.findall(r'"(/monitor/static/[^"]+)"', page):
        assert client.get(file).status_code == 200, file


def test_a_reader_chooses_among_what_there_is(
    urls: Urls, browse: Callable[..., TestClient]
) -> None:
    client = browse(urls)
    chosen = client.get("/monitor/test?var-model=unet.3&var-price=2&range=15m").text
    assert "<option selected>unet.3</option>" in chosen
    assert '<td class="now">30</td>' in section(chosen, "Chosen")
    assert "range=6h&amp;" in chosen or "&amp;range=6h" in chosen
    # Its dot is no wildcard, and a version that has gone is not all of them.
    gone = client.get("/monitor/test?var-model=unetx3").text
    assert "nothing was counted" in section(gone, "Chosen")


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/query?query=up",
        "/api/v1/query_range?query=up",
        "/monitor/query?query=up",
        "/monitor/static/../templates/page.html",
        "/monitor/docs/..%2f..%2fetc%2fpasswd",
        "/monitor/docs/runbooks/Unheard.md",
        "/monitor/nothing",
    ],
)
def test_there_is_no_address_for_a_query_or_a_file(
    path: str, urls: Urls, browse: Callable[..., TestClient]
) -> None:
    assert browse(urls).get(path).status_code == 404


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("range=99y", "expected one of 15m, 1h, 6h, 24h"),
        ('var-model=x"} or up{a="', "expected one of unet.3"),
        ("var-price=1) or vector(1", "expected a number"),
        ("var-price=inf", "expected a number"),
    ],
)
def test_what_is_chosen_cannot_become_a_query(
    query: str, expected: str, urls: Urls, browse: Callable[..., TestClient]
) -> None:
    reply = browse(urls).get(f"/monitor/test?{query}")
    assert reply.status_code == 400
    assert expected in reply.text


def test_a_page_of_another_site_gets_nothing(urls: Urls, browse: Callable[..., TestClient]) -> None:
    client = browse(urls)
    reply = client.get("/monitor/test", headers={"Host": "attacker.example"})
    assert reply.status_code == 400
    assert client.post("/monitor/test").status_code == 405


def test_an_unreachable_prometheus_is_named(browse: Callable[..., TestClient]) -> None:
    (port,) = free_ports(1)
    url = f"http://{LOOPBACK}:{port}"
    reply = browse(Urls(url, url), "prometheus has ended: killed by SIGKILL").get("/monitor/test")
    assert reply.status_code == 503
    assert f"{url} does not answer" in reply.text
    assert "killed by SIGKILL" in reply.text


def test_every_dashboard_of_the_project_is_drawn(urls: Urls) -> None:
    """Without any of its metrics: each panel says so."""
    boards = dashboards(read_thresholds())
    app = server(*urls, boards, 15)
    with TestClient(app, base_url=f"http://{LOOPBACK}") as client:
        for board in boards:
            reply = client.get(f"/monitor/{board.name}")
            assert reply.status_code == 200, reply.text
            assert "refuses a query" not in reply.text
            for each in board.panels():
                assert each.title in reply.text.replace("&#39;", "'")
