"""Failures as HTTP answers: RFC 9457 problems, which never reveal internals of the service."""

import math
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from nuclei.errors import (
    ChoiceRequired,
    EngineUnavailable,
    FrameTooLarge,
    InternalError,
    NucleiError,
    Overloaded,
    Unauthenticated,
)
from nuclei.quoting import sentence
from serving.gateway.observation import UNEXPECTED

UNAVAILABLE_RETRY_S = 1
_DETAILS = {
    HTTPStatus.NOT_FOUND: "there is nothing at this path; /openapi.json lists what there is",
    HTTPStatus.METHOD_NOT_ALLOWED: "this path does not take this method; the header Allow says "
    "which it takes",
}


def problem(error: NucleiError) -> Response:
    """The answer to a request that failed with a NucleiError."""
    name = type(error).__name__
    return JSONResponse(
        {
            "type": f"urn:nuclei:error:{name}",
            "title": name,
            "status": error.http_status,
            "detail": sentence(error),
            **_choices(error),
        },
        status_code=error.http_status,
        headers=_headers(error),
        media_type="application/problem+json",
    )


async def answer_problem(request: Request, error: Exception) -> Response:
    """Answers any exception: a NucleiError, an error of the routing, or an unexpected one."""
    if isinstance(error, NucleiError):
        return problem(error)
    if isinstance(error, HTTPException):
        return _routing_problem(HTTPStatus(error.status_code), error)
    return problem(InternalError(UNEXPECTED))


def _routing_problem(status: HTTPStatus, error: HTTPException) -> Response:
    return JSONResponse(
        {
            "type": "about:blank",
            "title": status.phrase,
            "status": status,
            "detail": _DETAILS.get(status, status.description),
        },
        status_code=status,
        headers=error.headers,
        media_type="application/problem+json",
    )


def _choices(error: NucleiError) -> dict[str, Any]:
    """What there is to choose from, for a page that shows it."""
    if not isinstance(error, ChoiceRequired):
        return {}
    return {"channels": error.channels, "planes": error.planes}


def _headers(error: NucleiError) -> dict[str, str]:
    match error:
        case FrameTooLarge():
            # The rest of a body that is too long is not received.
            return {"Connection": "close"}
        case Unauthenticated():
            return {"WWW-Authenticate": "Bearer"}
        case Overloaded():
            return {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
        case EngineUnavailable():
            return {"Retry-After": str(UNAVAILABLE_RETRY_S)}
        case _:
            return {}
