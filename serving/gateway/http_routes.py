"""The HTTP side of the data plane: from bodies and query strings to files and problems."""

import asyncio
import io
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.datastructures import FormData, MutableHeaders, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nuclei.errors import (
    EngineUnavailable,
    FrameTooLarge,
    InternalError,
    InvalidImage,
    NucleiError,
)
from nuclei.formats import FORMATS, Check
from nuclei.formats.tables import named_quality
from nuclei.imaging.decoding import Header
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.images import Frame, FrameLimits
from nuclei.inference.contract import Contract
from nuclei.quoting import printable, shortened
from nuclei.results.segmentation import Segmentation
from nuclei.version import DISTRIBUTION, installed_version
from serving import rollout_report
from serving.gateway import metrics
from serving.gateway.admission import Permit
from serving.gateway.completion import Ending, first_completed
from serving.gateway.data_plane import DataPlane, Encoding, ServerInfo
from serving.gateway.draining import frame_given_up
from serving.gateway.http_encoding import decoded
from serving.gateway.http_options import PARAMETERS, REQUEST_ID_HEADER, HttpOptions
from serving.gateway.observation import Observation, observed, only_known_errors
from serving.gateway.openapi import openapi_document
from serving.gateway.peers import name_of
from serving.gateway.problems import answer_problem
from serving.gateway.security import Token, TokenMiddleware
from serving.gateway.settings import ENVELOPE_BYTES, GatewaySettings
from serving.gateway.upload import PACE_S, UPLOAD_S, Upload, too_long, too_slow
from serving.rollout_report import RolloutReport

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
FORM_FIELD = "file"
MAX_SYNC_LINE = 200
MAX_FIELD_BYTES = 4096
# Characters of the name of a file.
MAX_NAME = 255
# Of an answer as it is handed to the server, which waits for the caller between two of them.
CHUNK_BYTES = 2**18
# Logged by proxies only, the caller has left; nginx's number.
CLIENT_CLOSED_REQUEST = 499


Result = TypeVar("Result")


class CallerLeft(asyncio.CancelledError):
    """The caller hung up while the frame was in work."""


def http_app(settings: GatewaySettings, token: Token) -> Starlette:
    """Everything that HTTP answers; `app.state.data_plane` is to be set before the first request.

    Once the event `app.state.drained` is set, frames still in work are given up.

    Args:
        settings: limits.
        token: required of callers for everything but health.
    """

    async def segment(request: Request) -> Response:
        data_plane: DataPlane = request.app.state.data_plane
        with ExitStack() as held:
            try:
                with observed("http", request.headers) as observation:
                    admission = data_plane.admission
                    permit = admission.admit(observation.protocol, _caller(request))
                    held.enter_context(permit)
                    answer = await _segment(
                        request, data_plane, settings.max_request_bytes, observation, permit
                    )
            except CallerLeft:
                return Response(status_code=CLIENT_CLOSED_REQUEST)
            permit.resize(min(permit.n_bytes, observation.bytes_out))
            # Until a slow caller has taken the answer, it is in memory.
            answer.release = held.pop_all().close
            return answer

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
            Route("/v1/segment", segment, methods=["POST"]),
            Route("/v1/models", _models, methods=["GET"]),
            Route(rollout_report.PATH, _rollout, methods=["GET"]),
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


class SegmentationResponse(Response):
    """An answer that is sent as fast as its caller takes it.

    Attributes:
        release: called once it is sent, or the caller has left.
    """

    release: Callable[[], None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            body = memoryview(self.body)
            for start in range(0, len(body), CHUNK_BYTES):
                chunk = body[start : start + CHUNK_BYTES].tobytes()
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self.release()


class EncodedFrame:
    """The file of a frame: a `serving.gateway.data_plane.FrameSource`."""

    def __init__(self, file: bytes, name: str, options: FrameOptions) -> None:
        """Args: name: of the file, as its caller calls it; empty when unknown."""
        self.file: bytes | None = file
        self._name = name
        self._options = options
        self._decoded: Frame | None = None

    def frame_options(self) -> FrameOptions:
        return self._options

    def take(self, decoded: Frame) -> None:
        self._decoded = replace(decoded, name=self._name)

    def probe(self, limits: FrameLimits) -> Header:
        height, width, channels = self.read(limits).pixels.shape
        return Header(height, width, channels, self.read(limits).pixels.itemsize)

    def read(self, limits: FrameLimits) -> Frame:
        assert self._decoded is not None
        return self._decoded


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


async def _rollout(request: Request) -> Response:
    report: RolloutReport = request.app.state.data_plane.rollout()
    return Response(report.model_dump_json(), media_type="application/json")


async def _segment(
    request: Request,
    data_plane: DataPlane,
    max_request_bytes: int,
    observation: Observation,
    permit: Permit,
) -> SegmentationResponse:
    query = request.query_params.multi_items()
    HttpOptions.of(query, (), request.headers)  # before the body is received
    body, name, form = await first_completed(
        _body(request, max_request_bytes, permit), _stopping(request)
    )
    permit.place()
    options = HttpOptions.of(query, form, request.headers)
    chosen = FORMATS[options.format_name]
    observation.bytes_in = len(body)
    source = EncodedFrame(body, name, options.frame)
    del body  # only the source holds it, until it is decoded

    def encode(
        segmentation: Segmentation, frame: Frame, check: Check
    ) -> tuple[bytes, Segmentation]:
        return chosen.encode(segmentation, frame, check), segmentation

    content, segmentation = await first_completed(
        data_plane.segment(
            source,
            options.segmentation,
            Encoding(encode, chosen.bytes_per_px, chosen.bytes_per_nucleus),
            observation,
            permit,
        ),
        (_gone(request), CallerLeft()),
        _stopping(request),
    )
    observation.bytes_out = len(content)
    return SegmentationResponse(
        content,
        media_type=chosen.media_type,
        headers={
            REQUEST_ID_HEADER: options.segmentation.request_id,
            "X-Model": segmentation.model,
            "X-Model-Version": segmentation.version,
            "X-Nuclei-Count": str(len(segmentation.nuclei)),
            "Server-Timing": _server_timing(observation.stage_ms),
            **_doubts(segmentation),
        },
    )


def _caller(request: Request) -> str:
    client = request.client
    return "" if client is None else name_of(client.host, client.port)


def _stopping(request: Request) -> Ending:
    """The end of the time for draining."""
    return request.app.state.drained.wait(), frame_given_up()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _server_timing(stage_ms: Mapping[str, float]) -> str:
    return ", ".join(f"{stage};dur={value:.1f}" for stage, value in stage_ms.items())


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


async def _body(
    request: Request, max_bytes: int, permit: Permit
) -> tuple[bytes, str, list[tuple[str, str]]]:
    """The encoded frame, its file's name and other fields.

    It is the body itself, without a name, or the field `file` of a multipart form.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_form = media_type == "multipart/form-data"
    allowed = max_bytes + ENVELOPE_BYTES if is_form else max_bytes
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > allowed:
        raise _too_large(allowed)
    inflated = decoded(request.receive, request.headers.get("content-encoding", ""))
    limited = Request(request.scope, _limited(inflated, allowed, permit))
    try:
        async with asyncio.timeout(UPLOAD_S):
            if not is_form:
                return await _joined(limited), "", []
            async with limited.form(
                max_files=1, max_fields=len(PARAMETERS), max_part_size=MAX_FIELD_BYTES
            ) as form:
                upload = form.get(FORM_FIELD)
                if isinstance(upload, UploadFile):
                    name = shortened(printable(upload.filename or ""), MAX_NAME)
                    return await upload.read(), name, _text_fields(form)
    except TimeoutError as error:
        raise too_long() from error
    except ClientDisconnect as error:
        raise InvalidImage("the caller hung up before the whole frame had arrived") from error
    except (MultiPartException, HTTPException) as error:
        raise InvalidImage(
            f"the multipart form cannot be read ({error}); expected one file in the field "
            f"'{FORM_FIELD}', and options as fields"
        ) from error
    raise InvalidImage(f"the form has no file in the field '{FORM_FIELD}'; send the image there")


async def _joined(request: Request) -> bytes:
    """The body; `request.body()` would hold it twice at its end."""
    joined = io.BytesIO()
    async for chunk in request.stream():
        joined.write(chunk)
    return joined.getvalue()


def _text_fields(form: FormData) -> list[tuple[str, str]]:
    return [(name, value) for name, value in form.multi_items() if isinstance(value, str)]


def _limited(receive: Receive, max_bytes: int, permit: Permit) -> Receive:
    """A receive that stops reading a body once it is longer than allowed, too slow, or no memory
    is left for it."""
    received = 0
    upload = Upload(permit)

    async def limited() -> Message:
        nonlocal received
        try:
            async with asyncio.timeout(PACE_S):
                message = await receive()
        except TimeoutError:
            raise too_slow() from None
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise _too_large(max_bytes)
        upload.arrived(received, received)
        return message

    return limited


def _too_large(max_bytes: int) -> FrameTooLarge:
    return FrameTooLarge(
        f"the request has more than {max_bytes} bytes; expected at most that: crop the frame or "
        "compress it"
    )


def _tuned(contract: Contract) -> dict[str, Any]:
    """What the parameters that adjust a model are without them."""
    return {
        "threshold": contract.postprocessing.threshold,
        "min_area": contract.postprocessing.min_area_px,
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
