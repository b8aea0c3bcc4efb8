"""The registry over HTTP: what is registered, and for whoever may, what answers.

Reading takes what every call takes. Changing takes the administrator's token, in a header that no
other page can make a browser send.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from nuclei.errors import InvalidOption
from nuclei.names import check_name, version_number
from serving.gateway.registry import RegistryProcess
from serving.gateway.security import Token
from serving.gateway.settings import GatewaySettings
from serving.logs import Event
from serving.registry_report import (
    PATH,
    Changed,
    GatesReport,
    Progress,
    Promotion,
    Request,
    Rollback,
)

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 16 * 2**10
BODY_S = 10.0

Body = TypeVar("Body", bound=BaseModel)


def registry_routes(settings: GatewaySettings, token: Token) -> list[Route]:
    """The routes; none without a registry, and none that change it without an administrator.

    `app.state.registry`, a `RegistryProcess`, is to be set before the first request.

    Args:
        settings: of the gateway.
        token: of its callers.
    """
    if not settings.registry:
        return []
    reading = [Route(PATH, _report(writable=token.has_administrator), methods=["GET"])]
    reading.append(Route(f"{PATH}/{{model}}/{{version}}/gates", _gates, methods=["GET"]))
    if not token.has_administrator:
        return reading

    def by_administrator(
        answer: Callable[[HttpRequest], Awaitable[Response]],
    ) -> Callable[[HttpRequest], Awaitable[Response]]:
        async def checked(request: HttpRequest) -> Response:
            token.check_administrator(request.headers.get("authorization"))
            return await answer(request)

        return checked

    return [
        *reading,
        Route(
            f"{PATH}/{{model}}/{{version}}/progress", by_administrator(_progress), methods=["GET"]
        ),
        Route(f"{PATH}/{{model}}/promote", by_administrator(_promote), methods=["POST"]),
        Route(f"{PATH}/{{model}}/rollback", by_administrator(_rollback), methods=["POST"]),
    ]


def _report(writable: bool) -> Callable[[HttpRequest], Awaitable[Response]]:
    async def report(request: HttpRequest) -> Response:
        found = await _registry(request).report()
        return _json(found.model_copy(update={"writable": writable}))

    return report


async def _gates(request: HttpRequest) -> Response:
    asked = Request(action="gates", model=_model(request), version=_version(request))
    return _json(await _registry(request).ask(asked, GatesReport))


async def _progress(request: HttpRequest) -> Response:
    asked = Request(action="progress", model=_model(request), version=_version(request))
    return _json(await _registry(request).ask(asked, Progress))


async def _promote(request: HttpRequest) -> Response:
    promotion = await _body(request, Promotion)
    return await _change(
        request, Request(action="promote", model=_model(request), promotion=promotion)
    )


async def _rollback(request: HttpRequest) -> Response:
    rollback = await _body(request, Rollback)
    return await _change(
        request, Request(action="rollback", model=_model(request), rollback=rollback)
    )


async def _change(request: HttpRequest, asked: Request) -> Response:
    caller = "" if request.client is None else request.client.host
    asked = asked.model_copy(update={"caller": caller})
    changed = await _registry(request).ask(asked, Changed)
    logger.info(
        Event(
            "registry_changed" if changed.changed else "registry_as_it_was",
            action=asked.action,
            model=asked.model,
            champion=changed.champion,
            caller=caller,
        )
    )
    return _json(changed)


def _registry(request: HttpRequest) -> RegistryProcess:
    found: RegistryProcess = request.app.state.registry
    return found


def _model(request: HttpRequest) -> str:
    name: str = request.path_params["model"]
    check_name(name, "model")
    return name


def _version(request: HttpRequest) -> int:
    return version_number(request.path_params["version"])


async def _body(request: HttpRequest, kind: type[Body]) -> Body:
    """The body, which is short; raises InvalidOption when it is not what was expected."""
    received = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                received += chunk
                if len(received) > MAX_BODY_BYTES:
                    raise InvalidOption(f"the body has more than {MAX_BODY_BYTES} bytes")
        return kind.model_validate_json(bytes(received))
    except (TimeoutError, ClientDisconnect):
        raise InvalidOption(f"the body did not arrive within {BODY_S:g} s") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"])) or "body"
        raise InvalidOption(
            f"{field}: {first['msg']}; expected JSON as /openapi.json describes it"
        ) from None


def _json(found: BaseModel) -> Response:
    return Response(
        found.model_dump_json(),
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
