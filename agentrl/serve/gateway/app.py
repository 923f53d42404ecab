"""The gateway's routes, who may use them, and how refusals are told."""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import time
from typing import TypeAlias, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentrl.errors import UserError, WorldFault
from agentrl.serve.body import BadRequest, read_json
from agentrl.serve.gateway.answers import error_json, models
from agentrl.serve.gateway.backend import Backend, Sessions
from agentrl.serve.gateway.streams import EventStream, HungUp, while_connected
from agentrl.serve.gateway.wire import ApiError, read_request
from agentrl.types import JsonValue

HUNG_UP = 499
NOBODY = "default"
"""The session of requests that name none."""
Handler: TypeAlias = Callable[[Request, str], Awaitable[Response]]
_log = logging.getLogger("agentrl.serve")


@dataclass(frozen=True, slots=True)
class Rules:
    """What a gateway allows."""

    token: str | None = None
    """Demanded as API key, alone or before `/SESSION`; None serves everyone who can connect."""
    max_body_bytes: int = 32 << 20
    hosts: tuple[str, ...] = ("*",)
    """Names under which the server may be addressed; keeps web pages from rebinding a name of
    theirs to this machine."""


def gateway_app(
    name: str, backend: Backend, rules: Rules, sessions: Sessions | None = None
) -> Starlette:
    """The application; `name` is the model it offers, `sessions` those it records."""
    api = _Api(name, backend, rules, sessions)
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=list(rules.hosts), www_redirect=False)
    handlers = {404: _nowhere, 405: _nowhere}
    return Starlette(routes=api.routes(), middleware=[hosts], exception_handlers=handlers)


class _Api:
    """One method per route."""

    def __init__(
        self, name: str, backend: Backend, rules: Rules, sessions: Sessions | None
    ) -> None:
        self._name, self._backend = name, backend
        self._rules, self._sessions = rules, sessions
        self._created = int(time())

    def routes(self) -> list[Route]:
        """Every route; a session is named by its path or by its key."""
        chat, listed = self._guarded(self.chat), self._guarded(self.models)
        routes = [
            Route("/health", _healthy),
            Route("/v1/models", listed),
            Route("/v1/models/{model:path}", self._guarded(self.model)),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ]
        if self._sessions is None:
            return routes
        one = "/v1/sessions/{session}"
        return [
            *routes,
            Route("/v1/sessions", self._guarded(self.create), methods=["POST"]),
            Route(f"{one}/models", listed),
            Route(f"{one}/chat/completions", chat, methods=["POST"]),
            Route(f"{one}/reward", self._guarded(self.reward), methods=["POST"]),
        ]

    async def models(self, request: Request, who: str) -> Response:
        """The one model."""
        return _reply(models(self._name, self._created))

    async def model(self, request: Request, who: str) -> Response:
        """What is known of it."""
        if request.path_params["model"] != self._name:
            raise ApiError("there is no such model here", status=404, code="model_not_found")
        listed = models(self._name, self._created)["data"]
        assert isinstance(listed, list)
        return _reply(listed[0])

    async def chat(self, request: Request, who: str) -> Response:
        """A completion, whole or as a stream."""
        asked = read_request(await self._body(request))
        if not asked.stream:
            return _reply(await while_connected(request, self._backend.complete(asked, who)))
        return EventStream(lambda push: self._backend.stream(asked, who, push), _failed)

    async def create(self, request: Request, who: str) -> Response:
        """A new session."""
        return _reply(self._recorded().create(await self._body(request)), 201)

    async def reward(self, request: Request, who: str) -> Response:
        """The end of a session."""
        return _reply(await self._recorded().settle(who, await self._body(request)))

    def _recorded(self) -> Sessions:
        assert self._sessions is not None  # its routes exist only then
        return self._sessions

    async def _body(self, request: Request) -> Mapping[str, JsonValue]:
        try:
            return await read_json(request, self._rules.max_body_bytes)
        except BadRequest as error:
            status = 400 if error.status == 422 else error.status
            raise ApiError(error.message, status=status) from None

    def _guarded(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """A route for those who show the token; its failures are told in OpenAI's schema."""

        async def endpoint(request: Request) -> Response:
            try:
                return await handler(request, self._who(request))
            except HungUp:
                return Response(status_code=HUNG_UP)
            except Exception as error:  # noqa: BLE001  the border: the client is told, the log too
                return _failed(error)

        return endpoint

    def _who(self, request: Request) -> str:
        """The session's name. Raises ApiError for a wrong key."""
        shown = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        wanted = self._rules.token
        if wanted is not None:
            token, _, shown = shown.partition("/") if "/" not in wanted else _cut(shown, wanted)
            if not hmac.compare_digest(token.encode(), wanted.encode()):
                raise ApiError(
                    "this server wants its token as API key", status=401, code="invalid_api_key"
                )
        return str(request.path_params.get("session") or shown or NOBODY)


def _cut(shown: str, wanted: str) -> tuple[str, str, str]:
    """Key and session apart, where the token itself holds a slash."""
    n = len(wanted)
    return shown[:n], "/", shown[n + 1 :]


def sorted_fault(error: Exception) -> ApiError:
    """What the client is told: its own mistakes as they are, ours without their insides."""
    if isinstance(error, ExceptionGroup):
        return sorted_fault(cast("ExceptionGroup[Exception]", error).exceptions[0])
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return ApiError(str(error))
    if isinstance(error, WorldFault):
        return ApiError(str(error), status=503, code="engine_failed")
    _log.error("a request failed", exc_info=error)
    return ApiError(f"internal error: {type(error).__name__}", status=500, code="internal_error")


async def _healthy(request: Request) -> Response:
    return Response("ok\n")


async def _nowhere(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    told = f"there is no {request.method} {request.url.path} here"
    return _refused(ApiError(told, status=status, code="unknown_url"))


def _failed(error: Exception) -> Response:
    return _refused(sorted_fault(error))


def _refused(error: ApiError) -> Response:
    headers = {"Retry-After": "1"} if error.status in (429, 503) else None
    return _reply(error_json(error), error.status, headers)


def _reply(
    content: JsonValue, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    # Plain ASCII: lone surrogates are legal in JSON's escapes, in UTF-8 they are not.
    return Response(json.dumps(content), status, headers, media_type="application/json")


__all__ = ["Rules", "gateway_app", "sorted_fault"]
