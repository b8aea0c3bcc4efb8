"""The HTTP side of the data plane: bodies and query strings in, files and problems out."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version as installed_version
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive

from nuclei.errors import FrameTooLarge, InvalidImage, InvalidOption, NucleiError
from nuclei.formats import format_named
from nuclei.images import Frame, read_frame
from nuclei.segmentation import Segmentation
from serving.gateway.data_plane import DISTRIBUTION, DataPlane, Options, ServerInfo
from serving.gateway.observation import Observation, observed, only_known_errors
from serving.gateway.openapi import openapi_document
from serving.gateway.settings import ENVELOPE_BYTES

REQUEST_ID_HEADER = "X-Request-ID"
FORM_FIELD = "file"
PARAMETERS = frozenset({"model", "tta", "format"})
FLAGS = {"true": True, "1": True, "false": False, "0": False}


def http_app(max_request_bytes: int) -> Starlette:
    """The routes under `/v1`; `app.state.data_plane` is to be set before the first request.

    Args:
        max_request_bytes: longest encoded frame.
    """

    async def segment(request: Request) -> Response:
        with observed("http") as observation:
            data_plane: DataPlane = request.app.state.data_plane
            return await _segment(request, data_plane, max_request_bytes, observation)

    async def models(request: Request) -> Response:
        data_plane: DataPlane = request.app.state.data_plane
        with only_known_errors():
            return JSONResponse(_server_info(await data_plane.server_info()))

    async def openapi(request: Request) -> Response:
        return JSONResponse(openapi_document(installed_version(DISTRIBUTION)))

    return Starlette(
        routes=[
            Route("/openapi.json", openapi, methods=["GET"]),
            Route("/v1/segment", _answering_problems(segment), methods=["POST"]),
            Route("/v1/models", _answering_problems(models), methods=["GET"]),
        ]
    )


Endpoint = Callable[[Request], Awaitable[Response]]


def _answering_problems(endpoint: Endpoint) -> Endpoint:
    """The endpoint with errors of the tree answered as RFC 9457 problems."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except NucleiError as error:
            return _problem(error)

    return answer


def _problem(error: NucleiError) -> Response:
    name = type(error).__name__
    # What is left of a body that is too long is not worth receiving.
    hang_up = {"Connection": "close"} if isinstance(error, FrameTooLarge) else None
    return JSONResponse(
        {
            "type": f"urn:nuclei:error:{name}",
            "title": name,
            "status": error.http_status,
            "detail": str(error),
        },
        status_code=error.http_status,
        headers=hang_up,
        media_type="application/problem+json",
    )


async def _segment(
    request: Request, data_plane: DataPlane, max_request_bytes: int, observation: Observation
) -> Response:
    options, format_name = _options(request)
    chosen = format_named(format_name)
    body = await _body(request, max_request_bytes)

    def encode(segmentation: Segmentation, frame: Frame) -> Response:
        return Response(
            chosen.encode(segmentation, frame),
            media_type=chosen.media_type,
            headers={
                REQUEST_ID_HEADER: options.request_id,
                "X-Model": segmentation.model,
                "X-Model-Version": segmentation.version,
                "X-Nuclei-Count": str(len(segmentation.nuclei)),
            },
        )

    return await data_plane.segment(
        lambda limits: read_frame(body, limits), options, encode, observation
    )


def _options(request: Request) -> tuple[Options, str]:
    """Options and the name of the format."""
    query = request.query_params
    for name in query:
        if name not in PARAMETERS:
            raise InvalidOption(
                f"query parameter {name!r} is not known; expected some of "
                f"{', '.join(sorted(PARAMETERS))}"
            )
        if len(query.getlist(name)) > 1:
            raise InvalidOption(f"query parameter {name!r} is given more than once; send it once")
    options = Options(
        request_id=request.headers.get(REQUEST_ID_HEADER, ""),
        model=query.get("model", ""),
        tta=_flag(query, "tta"),
    )
    return options, query.get("format", "json")


def _flag(query: Mapping[str, str], name: str) -> bool:
    value = query.get(name, "false")
    if value not in FLAGS:
        raise InvalidOption(f"{name}={value!r} is no flag; expected one of {', '.join(FLAGS)}")
    return FLAGS[value]


async def _body(request: Request, max_bytes: int) -> bytes:
    """The encoded frame: the body itself, or the field `file` of a multipart form."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_form = media_type == "multipart/form-data"
    allowed = max_bytes + ENVELOPE_BYTES if is_form else max_bytes
    limited = Request(request.scope, _limited(request.receive, allowed))
    try:
        if not is_form:
            return await limited.body()
        async with limited.form(max_files=1, max_fields=1) as form:
            upload = form.get(FORM_FIELD)
            if isinstance(upload, UploadFile):
                return await upload.read()
    except ClientDisconnect as error:
        raise InvalidImage("the caller hung up before the whole frame had arrived") from error
    except (MultiPartException, HTTPException) as error:
        raise InvalidImage(
            f"the multipart form cannot be read ({error}); expected one file in the field "
            f"'{FORM_FIELD}'"
        ) from error
    raise InvalidImage(f"the form has no file in the field '{FORM_FIELD}'; send the image there")


def _limited(receive: Receive, max_bytes: int) -> Receive:
    """A receive that stops reading a body once it is longer than allowed."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise FrameTooLarge(
                f"the request has more than {max_bytes} bytes; expected at most that: crop the "
                "frame or compress it"
            )
        return message

    return limited


def _server_info(info: ServerInfo) -> dict[str, Any]:
    return {
        "server_version": info.server_version,
        "models": [
            {
                "name": served.name,
                "version": served.version,
                "tta": served.tta,
                "pixel_size_um": served.contract.pixel_size_um,
                "validation": served.contract.validation,
            }
            for served in info.models
        ],
        "default_model": info.default_model,
        "limits": asdict(info.limits),
        "default_timeout_s": info.default_timeout_s,
    }
