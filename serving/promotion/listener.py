"""The port of sync: its metrics, its state, and MLflow's webhooks."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from serving.promotion import metrics
from serving.promotion.webhook import MAX_BODY_BYTES, Verdict, Webhooks

_BODY_S = 10.0
_STATUS = {
    Verdict.TAKEN: 202,
    Verdict.FORGED: 401,
    Verdict.OLD: 401,
    Verdict.REPLAYED: 409,
    Verdict.CROWDED: 429,
}


def listener(
    webhooks: Webhooks | None,
    wake: Callable[[], None],
    status: Callable[[], Mapping[str, Any]],
    problem: Callable[[], str],
) -> Starlette:
    """The application.

    Args:
        webhooks: judges them; None takes none.
        wake: called for each that is taken.
        status: what sync does and serves.
        problem: why the Triton beside it is not to get frames; empty when it is.
    """

    async def webhook(request: Request) -> Response:
        if webhooks is None:
            return PlainTextResponse("no secret for webhooks is set\n", 404)
        body = await _body(request)
        if body is None:
            metrics.WEBHOOKS.labels("too_large").inc()
            return PlainTextResponse(f"expected at most {MAX_BODY_BYTES} bytes\n", 413)
        verdict = webhooks.judge(request.headers, body)
        metrics.WEBHOOKS.labels(verdict.value).inc()
        if verdict == Verdict.TAKEN:
            wake()
        return PlainTextResponse(f"{verdict.value}\n", _STATUS[verdict])

    async def livez(request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readyz(request: Request) -> Response:
        found = problem()
        return PlainTextResponse(f"{found or 'ready'}\n", 503 if found else 200)

    async def state(request: Request) -> Response:
        return JSONResponse(status())

    async def exposition(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(REGISTRY), headers={"Content-Type": content_type})

    return Starlette(
        routes=[
            Route("/webhook", webhook, methods=["POST"]),
            Route("/livez", livez, methods=["GET"]),
            Route("/readyz", readyz, methods=["GET"]),
            Route("/state", state, methods=["GET"]),
            Route("/metrics", exposition, methods=["GET"]),
        ]
    )


async def _body(request: Request) -> bytes | None:
    """The body of a request; None when it is too long or does not arrive."""
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    return None
    except (ClientDisconnect, TimeoutError):
        return None
    return bytes(body)
