"""The addresses of the page: dashboards, runbooks, and what they are drawn with.

GET /monitor                    the first dashboard
GET /monitor/NAME?range=1h      a dashboard; `var-VARIABLE=VALUE` chooses
GET /monitor/docs/FILE          a document, such as runbooks/ALERT.md: what to do when it fires
GET /monitor/static/FILE        style sheet, script, icon
GET /livez                      whether the page's server answers

All are read-only, and no address takes a query of Prometheus.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from monitoring.monitor.documents import Documents, as_html, inline
from monitoring.monitor.page import DEFAULT_RANGE, RANGES, Choice, page
from monitoring.monitor.prometheus import Prometheus, QueryFailed, Unreachable
from monitoring.monitor.units import word
from monitoring.panels import Dashboard, Note
from nuclei.errors import NucleiError
from nuclei.process.ports import LOOPBACK

REFRESH_S = 15

_HERE = Path(__file__).parent
_CHOICE = "var-"
# Nothing is from elsewhere, and nothing inline runs.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# A page of another site that names itself as this machine gets nothing (DNS rebinding).
_HOSTS = [LOOPBACK, "localhost"]


def server(
    prometheus_url: str,
    alertmanager_url: str,
    boards: Sequence[Dashboard],
    scrape_interval_s: int,
    problems: Callable[[], Sequence[str]] = tuple,
    documents: Documents | None = None,
) -> Starlette:
    """The application.

    Args:
        prometheus_url: of the Prometheus that is asked.
        alertmanager_url: of the one that it sends its alerts to.
        boards: the dashboards, in the order of their tabs.
        scrape_interval_s: of Prometheus.
        problems: what is wrong beside what Prometheus knows, such as a program that has ended.
        documents: the runbooks and what they lead to; None is those of the project.
    """
    prometheus = Prometheus(prometheus_url, alertmanager_url)
    site = _Site(prometheus, boards, scrape_interval_s, problems, documents or Documents())
    return Starlette(
        routes=[
            Route("/", site.first),
            Route("/livez", site.livez),
            Route("/monitor", site.first),
            Mount("/monitor/static", StaticFiles(directory=_HERE / "static")),
            Route("/monitor/docs/{path:path}", site.document),
            Route("/monitor/{name}", site.dashboard),
        ],
        middleware=[
            Middleware(_Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=_HOSTS, www_redirect=False),
        ],
        lifespan=site.lifespan,
    )


class _Site:
    def __init__(
        self,
        prometheus: Prometheus,
        boards: Sequence[Dashboard],
        scrape_interval_s: int,
        problems: Callable[[], Sequence[str]],
        documents: Documents,
    ) -> None:
        self._prometheus = prometheus
        self._boards = {board.name: board for board in boards}
        self._scrape_interval_s = scrape_interval_s
        self._problems = problems
        self._documents = documents
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals |= {
            "boards": boards,
            "ranges": RANGES,
            "refresh_s": REFRESH_S,
            "runbook": documents.runbook,
            "markdown": as_html,
            "inline": inline,
            "word": word,
            "choice_prefix": _CHOICE,
            "is_note": lambda panel: isinstance(panel, Note),
        }

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with self._prometheus:
            yield

    async def livez(self, request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def first(self, request: Request) -> Response:
        return RedirectResponse(f"/monitor/{next(iter(self._boards))}")

    async def dashboard(self, request: Request) -> Response:
        board = self._boards.get(request.path_params["name"])
        if board is None:
            expected = ", ".join(self._boards)
            return self._problem(404, "No such dashboard", f"Expected one of {expected}.")
        given = request.query_params
        try:
            filled = await page(
                self._prometheus,
                board,
                given.get("range", DEFAULT_RANGE),
                {
                    variable.name: given.get(f"{_CHOICE}{variable.name}", "")
                    for variable in board.variables
                },
                self._scrape_interval_s,
            )
        except Unreachable as error:
            url = self._prometheus.url
            text = f"{url} does not answer: {error}. The terminal of `make monitor` says more."
            return self._problem(503, "Prometheus does not answer", text)
        except QueryFailed as error:
            return self._problem(502, "Prometheus refuses a query", str(error))
        except NucleiError as error:
            return self._problem(error.http_status, "That cannot be shown", f"{error}.")
        problems = [*self._problems(), *filled.problems]
        firing = sum(a.state == "firing" and not a.suppressed for a in filled.alerts)
        title = f"({firing}) {board.title}" if firing else board.title
        query = _chosen(filled.choices)
        return self._html("page.html", page=filled, problems=problems, title=title, query=query)

    async def document(self, request: Request) -> Response:
        path = request.path_params["path"]
        html = self._documents.html(path)
        if html is None:
            text = "Only the Markdown files in docs/ and docs/runbooks/ are shown here."
            return self._problem(404, "No such document", text)
        return self._html("document.html", title=path, html=html)

    def _problem(self, status: int, title: str, text: str) -> Response:
        return self._html("problem.html", status, title=title, text=text, problems=self._problems())

    def _html(self, template: str, status: int = 200, **values: Any) -> Response:
        return HTMLResponse(self._templates.get_template(template).render(values), status)


def _chosen(choices: Sequence[Choice]) -> Mapping[str, str]:
    """What the addresses of links keep."""
    return {f"{_CHOICE}{each.variable.name}": each.chosen for each in choices if each.chosen}


class _Headers:
    """Adds the headers to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    *((name.lower().encode(), value.encode()) for name, value in _HEADERS.items()),
                ]
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)
