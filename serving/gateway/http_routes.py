"""The HTTP side of the data plane: from bodies and query strings to files and problems."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nuclei.errors import EngineUnavailable, InternalError, NucleiError
from nuclei.formats import FORMATS, Check
from nuclei.formats.tables import named_quality
from nuclei.imaging.images import Frame
from nuclei.inference.contract import Contract
from nuclei.quoting import printable
from nuclei.results.segmentation import Segmentation
from nuclei.version import DISTRIBUTION, installed_version
from serving import rollout_report
from serving.gateway import metrics
from serving.gateway.admission import Permit
from serving.gateway.completion import first_completed
from serving.gateway.data_plane import DataPlane, Encoding, ServerInfo
from serving.gateway.http_frames import (
    EncodedFrame,
    HeldResponse,
    answered,
    body_of,
    left,
    server_timing,
    stopping,
)
from serving.gateway.http_options import REQUEST_ID_HEADER, HttpOptions
from serving.gateway.http_pictures import observed_picture, picture
from serving.gateway.http_registry import registry_routes
from serving.gateway.observation import Observation, observed, only_known_errors
from serving.gateway.openapi import openapi_document
from serving.gateway.pages import page_routes
from serving.gateway.problems import answer_problem
from serving.gateway.security import Token, TokenMiddleware
from serving.gateway.settings import GatewaySettings
from serving.rollout_report import RolloutReport

LIVE_PATH = "/v1/live"
RANGE_HEADER = "X-Nuclei-Intensity-Range"
WARNINGS_HEADER = "X-Nuclei-Warnings"
QUALITY_HEADER = "X-Nuclei-Quality"
# What pages of other origins may read, besides the body.
EXPOSED_HEADERS = (
    *(REQUEST_ID_HEADER, "X-Model", "X-Model-Version", "X-Nuclei-Count"),
    *(RANGE_HEADER, WARNINGS_HEADER, QUALITY_HEADER, "Server-Timing", "Retry-After"),
)
# Proxies refuse headers of 8 kB and more.
MAX_WARNINGS_LENGTH = 4000
MAX_SYNC_LINE = 200
# Its callers cannot tell an answer that breaks off from a whole one without a length.
HTTP_1_0 = "1.0"
# Of a nucleus in the longest format.
TEXT_BYTES = 1500


def http_app(settings: GatewaySettings, token: Token) -> Starlette:
    """Everything that HTTP answers.

    `app.state.data_plane`, and with a registry `app.state.registry`, are to be set before the first
    request.

    Once the event `app.state.drained` is set, frames still in work are given up.

    Args:
        settings: limits.
        token: required of callers for everything but health.
    """

    async def segment(request: Request) -> Response:
        return await answered(
            request,
            observed("http", request.headers),
            partial(_segment, request, settings.max_request_bytes),
        )

    async def frame(request: Request) -> Response:
        return await answered(
            request, observed_picture(), partial(picture, request, settings.max_request_bytes)
        )

    async def readyz(request: Request) -> Response:
        data_plane: DataPlane = request.app.state.data_plane
        found = data_plane.resolver.line()
        if not await data_plane.is_ready():
            raise EngineUnavailable(
                "the models are not served now; send frames once this answers 200"
                + (f" ({found})" if found else "")
            )
        lines = ("ready", found, _sync_line(settings.sync_health_file))
        return PlainTextResponse("".join(f"{line}\n" for line in lines if line))

    app = Starlette(
        routes=[
            Route("/livez", _livez, methods=["GET"]),
            Route("/readyz", readyz, methods=["GET"]),
            Route("/metrics", _metrics, methods=["GET"]),
            Route("/openapi.json", _openapi, methods=["GET"]),
            Route("/v1/frame", frame, methods=["POST"]),
            Route("/v1/segment", segment, methods=["POST"]),
            Route("/v1/models", _models, methods=["GET"]),
            Route(rollout_report.PATH, _rollout, methods=["GET"]),
            *registry_routes(settings, token),
            *([Route(LIVE_PATH, _live, methods=["GET"])] if settings.live else []),
            *page_routes(),
        ],
        middleware=[
            Middleware(ServerHeader),
            *_cors(settings.cors_origins),
            Middleware(TokenMiddleware, token=token),
        ],
        exception_handlers={
            NucleiError: answer_problem,
            HTTPException: answer_problem,
            Exception: answer_problem,
        },
    )
    app.router.redirect_slashes = False
    app.state.drained = asyncio.Event()
    return app


def _cors(origins: str) -> list[Middleware]:
    """What lets pages of these origins call; before the token, which preflights do not carry."""
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins.split(","),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", REQUEST_ID_HEADER],
            expose_headers=EXPOSED_HEADERS,
        )
    ]


class ServerHeader:
    """Adds the header `Server` with the version of this software to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._value = f"{DISTRIBUTION}/{installed_version()}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Server"] = self._value
            await send(message)

        await self._app(scope, receive, send_with_header)


async def _livez(request: Request) -> Response:
    if not request.app.state.data_plane.progress.is_alive:
        raise InternalError("no work of this process is completed any more; start it again")
    return PlainTextResponse("alive\n")


def _sync_line(file: Path | None) -> str:
    """What sync says of itself: it may fail, and frames are answered all the same."""
    if file is None:
        return ""
    try:
        with file.open() as opened:
            return printable(opened.readline(MAX_SYNC_LINE).rstrip("\n"))
    except (OSError, UnicodeDecodeError):
        return "sync: not known"


async def _metrics(request: Request) -> Response:
    text, content_type = metrics.exposition(request.headers.get("accept", ""))
    return Response(text, headers={"Content-Type": content_type})


async def _openapi(request: Request) -> Response:
    return JSONResponse(openapi_document(installed_version()))


async def _models(request: Request) -> Response:
    with only_known_errors():
        return JSONResponse(_server_info(await request.app.state.data_plane.server_info()))


async def _live(request: Request) -> Response:
    data_plane: DataPlane = request.app.state.data_plane
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(
        data_plane.live.events(), media_type="text/event-stream", headers=headers
    )


async def _rollout(request: Request) -> Response:
    report: RolloutReport = request.app.state.data_plane.rollout()
    return Response(report.model_dump_json(), media_type="application/json")


@dataclass(frozen=True)
class _Begun:
    """The answer to a frame, of which the first piece is made.

    Attributes:
        first: bytes; all where there is no rest.
        rest: makes the pieces that follow.
        segmentation: that they are of.
    """

    first: bytes
    rest: Iterator[bytes] | None
    segmentation: Segmentation


async def _segment(
    request: Request, max_request_bytes: int, observation: Observation, permit: Permit
) -> HeldResponse:
    data_plane: DataPlane = request.app.state.data_plane
    query = request.query_params.multi_items()
    HttpOptions.of(query, (), request.headers)  # before the body is received
    body, name, form = await first_completed(
        body_of(request, max_request_bytes, permit), stopping(request)
    )
    permit.place()
    options = HttpOptions.of(query, form, request.headers)
    chosen = FORMATS[options.format_name]
    observation.bytes_in = len(body)
    source = EncodedFrame(body, name, options.frame)
    del body  # only the source holds it, until it is decoded
    label_bytes = 4 if options.discard else 0

    at_once = request.scope["http_version"] == HTTP_1_0
    text_bytes = TEXT_BYTES if at_once else 0

    def encode(segmentation: Segmentation, frame: Frame, check: Check) -> _Begun:
        # What is compared with challengers, and with other frames, is the whole result.
        kept = segmentation.without(options.discard)
        pieces = iter(chosen.encode(kept, frame, check))
        first = next(pieces)
        if at_once:
            return _Begun(b"".join([first, *pieces]), None, kept)
        second = next(pieces, None)
        return _Begun(first, None if second is None else chain([second], pieces), kept)

    begun = await first_completed(
        data_plane.segment(
            source,
            options.segmentation,
            Encoding(
                encode, chosen.bytes_per_px + label_bytes, chosen.bytes_per_nucleus + text_bytes
            ),
            observation,
            permit,
        ),
        left(request),
        stopping(request),
    )
    observation.bytes_out = len(begun.first)
    if begun.rest is not None:
        observation.note_begun()
    segmentation = begun.segmentation

    async def rest(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in data_plane.taken(pieces):
            observation.bytes_out += len(piece)
            yield piece

    return HeldResponse(
        begun.first,
        chosen.media_type,
        {
            REQUEST_ID_HEADER: options.segmentation.request_id,
            "X-Model": segmentation.model,
            "X-Model-Version": segmentation.version,
            "X-Nuclei-Count": str(len(segmentation.nuclei)),
            "Server-Timing": server_timing(observation.stage_ms),
            **_doubts(segmentation),
        },
        None if begun.rest is None else rest(begun.rest),
        0 if begun.rest is None else len(segmentation.nuclei) * chosen.bytes_per_nucleus,
    )


def _doubts(segmentation: Segmentation) -> dict[str, str]:
    """Headers with the range that was used, and in JSON of ASCII the quality and the warnings."""
    headers = {}
    if segmentation.intensity_range is not None:
        headers[RANGE_HEADER] = ",".join(f"{value:.9g}" for value in segmentation.intensity_range)
    if segmentation.quality is not None:
        headers[QUALITY_HEADER] = json.dumps(named_quality(segmentation.quality))
    shown = list(segmentation.warnings)
    while len(listed := json.dumps(shown)) > MAX_WARNINGS_LENGTH:
        shown = [*shown[:-2], "..."] if len(shown) > 1 else ["..."]
    return headers | ({WARNINGS_HEADER: listed} if shown else {})


def _tuned(contract: Contract) -> dict[str, Any]:
    """What the parameters that adjust a model are without them."""
    return {
        "threshold": contract.thresholds,
        "min_area": contract.min_areas_px,
        "diameter": contract.diameters_px,
    }


def _server_info(info: ServerInfo) -> dict[str, Any]:
    return {
        "server_version": info.server_version,
        "models": [
            {
                "name": served.name,
                "version": served.champion.version,
                "versions": sorted(served.versions),
                "tta": served.tta,
                "pixel_size_um": served.champion.contract.pixel_size_um,
                "validation": served.champion.contract.validation,
                "precision": served.precision or None,
                "tuned": _tuned(served.champion.contract),
            }
            for served in info.models
        ],
        "default_model": info.default_model,
        "limits": asdict(info.limits),
        "default_timeout_s": info.default_timeout_s,
        "max_frames_in_flight": info.max_frames_in_flight,
        "max_bytes_in_flight": info.max_bytes_in_flight,
    }
