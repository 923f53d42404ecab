"""The sandbox server's routes, and who may use them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import TypeAlias

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentrl import __version__
from agentrl.errors import SandboxError
from agentrl.sandbox import OneShot, SandboxPool
from agentrl.serve import fusion
from agentrl.serve.body import BadRequest, number, read_json, text
from agentrl.serve.door import Bearer, reply
from agentrl.serve.sessions import Leases
from agentrl.types import JsonValue

PROTOCOL = 1
"""Version of the `/agentrl` routes."""
_HUNG_UP = 499
_Answer: TypeAlias = "Mapping[str, JsonValue] | str"
_Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Rules:
    """What a server allows."""

    token: str | None = None
    """Demanded as `Authorization: Bearer`; None serves everyone who can connect."""
    max_body_bytes: int = 32 << 20
    idle_s: float = 600.0
    """After which an unused session is closed."""
    hosts: tuple[str, ...] = ("*",)
    """Names under which the server may be addressed; keeps web pages from rebinding a name of
    theirs to this machine."""


def sandbox_app(pool: SandboxPool, rules: Rules) -> Starlette:
    """The application over an open pool; its shutdown closes the pool."""
    leases = Leases(pool, rules.idle_s)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        async with asyncio.TaskGroup() as group:
            reaper = group.create_task(leases.reap())
            try:
                yield
            finally:
                reaper.cancel()
        await leases.close_all()
        await pool.close()

    api = _Api(pool, leases, rules)
    middleware = [
        Middleware(TrustedHostMiddleware, allowed_hosts=list(rules.hosts), www_redirect=False)
    ]
    if rules.token is not None:
        middleware.append(Middleware(Bearer, token=rules.token))
    return Starlette(routes=api.routes(), middleware=middleware, lifespan=lifespan)


class _Api:
    """One method per route; faults become answers in `_answered`."""

    def __init__(self, pool: SandboxPool, leases: Leases, rules: Rules) -> None:
        self._pool = pool
        self._leases = leases
        self._rules = rules

    def routes(self) -> list[Route]:
        """Every route."""
        session = "/agentrl/sessions/{session}"
        return [
            Route("/v1/ping", _plain(self.ping)),
            Route("/run_code", self._stateless(self.run_code), methods=["POST"]),
            Route("/run_jupyter", self._stateless(self.run_jupyter), methods=["POST"]),
            Route("/agentrl", _plain(self.hello)),
            Route("/agentrl/run", self._stateless(self.run_once), methods=["POST"]),
            Route(session, _plain(self.open), methods=["PUT"]),
            Route(session, _plain(self.close), methods=["DELETE"]),
            Route(f"{session}/run", _plain(self.run), methods=["POST"]),
            Route(f"{session}/reset", _plain(self.reset), methods=["POST"]),
        ]

    async def ping(self, request: Request) -> _Answer:
        """SandboxFusion's sign of life."""
        return "pong"

    async def hello(self, request: Request) -> _Answer:
        """What this server is."""
        return {
            "agentrl": __version__,
            "protocol": PROTOCOL,
            "isolation": self._pool.isolation,
            "one_shot": isinstance(self._pool, OneShot),
            "statistics": asdict(self._pool.statistics()),
        }

    async def run_code(self, body: Mapping[str, JsonValue]) -> _Answer:
        """SandboxFusion's."""
        try:
            return await fusion.run_code(self._pool, fusion.CodeRequest.of(body))
        except (fusion.Unsupported, SandboxError) as error:
            return fusion.refusal(_told(error))

    async def run_jupyter(self, body: Mapping[str, JsonValue]) -> _Answer:
        """SandboxFusion's."""
        try:
            return await fusion.run_jupyter(self._pool, fusion.JupyterRequest.of(body))
        except SandboxError as error:
            return fusion.refusal(_told(error))

    async def run_once(self, body: Mapping[str, JsonValue]) -> _Answer:
        """Code in an interpreter of its own."""
        code, limit_s = text(body, "code"), number(body, "timeout_s", 10, fusion.MAX_RUN_S)
        if isinstance(self._pool, OneShot):
            return asdict(await self._pool.run_once(code, timeout_s=max(limit_s, 0.0)))
        session = await self._pool.acquire()
        try:
            return asdict(await session.run(code, timeout_s=max(limit_s, 0.0))) | {
                "state_lost": False
            }
        finally:
            await session.close()

    async def open(self, request: Request) -> _Answer:
        """Lease."""
        await self._leases.open(request.path_params["session"])
        return {"isolation": self._pool.isolation}

    async def run(self, request: Request) -> _Answer:
        """One numbered run of a session."""
        body = await self._body(request)
        limit_s = max(number(body, "timeout_s", 10, fusion.MAX_RUN_S), 0.0)
        count = int(number(body, "run", -1, 2**53))
        name: str = request.path_params["session"]
        return asdict(await self._leases.run(name, count, text(body, "code"), limit_s))

    async def reset(self, request: Request) -> _Answer:
        """Forget."""
        await self._leases.reset(request.path_params["session"])
        return {}

    async def close(self, request: Request) -> _Answer:
        """Give back."""
        await self._leases.close(request.path_params["session"])
        return {}

    def _stateless(
        self, handler: Callable[[Mapping[str, JsonValue]], Awaitable[_Answer]]
    ) -> _Endpoint:
        """A route whose work ends when its client hangs up."""

        async def endpoint(request: Request) -> Response:
            try:
                body = await self._body(request)
            except BadRequest as error:
                return reply({"error": error.message, "detail": error.message}, error.status)
            return await _while_connected(request, _answered(handler(body)))

        return endpoint

    async def _body(self, request: Request) -> Mapping[str, JsonValue]:
        return await read_json(request, self._rules.max_body_bytes)


async def _answered(work: Awaitable[_Answer]) -> Response:
    """Faults as answers: the request's own as 4xx, the box's as 503."""
    try:
        return reply(await work)
    except BadRequest as error:
        return reply({"error": error.message, "detail": error.message}, error.status)
    except SandboxError as error:
        return reply({"error": str(error)}, 503, {"Retry-After": "1"})


def _plain(handler: Callable[[Request], Awaitable[_Answer]]) -> _Endpoint:
    """A route that runs to its end; a client that lost the answer may ask again."""

    async def endpoint(request: Request) -> Response:
        return await _answered(handler(request))

    return endpoint


async def _while_connected(request: Request, work: Coroutine[None, None, Response]) -> Response:
    """Stop when the client hangs up: code that nobody waits for must not run on, nor queue."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        worker.cancel()

    async with asyncio.TaskGroup() as group:
        watcher = group.create_task(watch())
        worker = group.create_task(work)
        worker.add_done_callback(lambda _: watcher.cancel())
    return Response(status_code=_HUNG_UP) if worker.cancelled() else worker.result()


def _told(error: BadRequest | SandboxError) -> str:
    return error.message if isinstance(error, BadRequest) else str(error)


__all__ = ["PROTOCOL", "Rules", "sandbox_app"]
