"""The web pages of the gateway: files of this package, which hold no secret.

They are open to everybody who reaches the gateway, and show nothing until the API answers them,
which wants the token. They load nothing from anywhere else, which browsers enforce.
"""

import hashlib
import mimetypes
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).parent / "web"
ASSETS = "/web/"
PAGES = {"/": "index.html", "/live": "live.html", "/models": "models.html"}
HEADERS = {
    "Content-Security-Policy": "; ".join(
        [
            *("default-src 'none'", "script-src 'self'", "style-src 'self'", "worker-src 'self'"),
            *("connect-src 'self'", "img-src 'self' blob:", "base-uri 'none'"),
            *("form-action 'none'", "frame-ancestors 'none'"),
        ]
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # A gateway of another version has other files: browsers ask each time.
    "Cache-Control": "no-cache",
}
_TYPES = {".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class _File:
    content: bytes
    media_type: str
    etag: str

    @classmethod
    def of(cls, path: Path) -> "_File":
        content = path.read_bytes()
        media_type = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "text/plain"
        return cls(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:16]}"')


def is_page(path: str) -> bool:
    """Whether the path is that of a page, or of a file that pages need."""
    return path in PAGES or path.startswith(ASSETS)


def page_routes() -> list[Route]:
    """The routes of the pages and their files, which are read once."""
    assets = {
        path.relative_to(FOLDER).as_posix(): _File.of(path)
        for path in sorted(FOLDER.rglob("*"))
        if path.is_file() and path.suffix in (".js", ".css", ".svg")
    }

    async def asset(request: Request) -> Response:
        if (file := assets.get(request.path_params["name"])) is None:
            raise HTTPException(404)
        return _answer(file, request)

    async def page(file: _File, request: Request) -> Response:
        return _answer(file, request)

    return [
        *(
            Route(path, partial(page, _File.of(FOLDER / name)), methods=["GET"])
            for path, name in PAGES.items()
        ),
        Route(ASSETS + "{name:path}", asset, methods=["GET"]),
    ]


def _answer(file: _File, request: Request) -> Response:
    headers = {**HEADERS, "ETag": file.etag}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
