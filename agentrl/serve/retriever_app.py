"""The retriever server's routes: Search-R1's `/retrieve`, as verl, SkyRL and others speak it.

Request and answer after PeterGriffinJin/Search-R1, `search_r1/search/retrieval_server.py`:
`{"queries": [...], "topk": 3, "return_scores": true}` is answered by
`{"result": [[{"document": {"id", "contents"}, "score"}, ...], ...]}`, and without scores by the bare
documents. SkyRL's clients send a single `"query"`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from agentrl import __version__
from agentrl.errors import WorldFault
from agentrl.retrieval import Hit, Retriever, contents_of
from agentrl.serve.body import BadRequest, read_json
from agentrl.serve.door import Bearer, reply
from agentrl.types import JsonValue

MOST_HITS = 1000
"""Largest `topk`."""
_HUNG_UP = 499


@dataclass(frozen=True, slots=True)
class RetrieverRules:
    """What a retriever server allows."""

    topk: int = 3
    """Hits per query when the request does not say."""
    token: str | None = None
    """Demanded as `Authorization: Bearer`; None serves everyone who can connect."""
    hosts: tuple[str, ...] = ("*",)
    """Names under which the server may be addressed."""
    max_body_bytes: int = 32 << 20


def retriever_app(retriever: Retriever, rules: RetrieverRules) -> Starlette:
    """The application over an open retriever; its shutdown closes it."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        yield
        await retriever.close()

    async def retrieve(request: Request) -> Response:
        try:
            asked = _Asked.of(await read_json(request, rules.max_body_bytes), rules.topk)
            found = await retriever.search(asked.queries, k=asked.topk)
        except BadRequest as error:
            return reply({"detail": error.message}, error.status)
        except ClientDisconnect:
            return Response(status_code=_HUNG_UP)
        except WorldFault as error:
            return reply({"detail": str(error)}, 503, {"Retry-After": "1"})
        return reply({"result": [[_item(hit, asked.scores) for hit in hits] for hits in found]})

    async def hello(request: Request) -> Response:
        return reply({"agentrl": __version__, "retriever": type(retriever).__name__})

    routes = [Route("/retrieve", retrieve, methods=["POST"]), Route("/", hello)]
    guards = [
        Middleware(TrustedHostMiddleware, allowed_hosts=list(rules.hosts), www_redirect=False)
    ]
    if rules.token is not None:
        guards.append(Middleware(Bearer, token=rules.token))
    return Starlette(routes=routes, middleware=guards, lifespan=lifespan)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, read."""

    queries: Sequence[str]
    topk: int
    scores: bool

    @staticmethod
    def of(body: Mapping[str, JsonValue], topk: int) -> _Asked:
        """Raises BadRequest naming the field."""
        queries, one = body.get("queries"), body.get("query")
        if queries is None and isinstance(one, str):
            queries = [one]
        if not isinstance(queries, list):
            raise BadRequest("`queries` must be a list of strings")
        texts = [query for query in queries if isinstance(query, str)]
        if len(texts) != len(queries):
            raise BadRequest("`queries` must be a list of strings")
        given = body.get("topk")
        wanted = topk if given is None else given
        if isinstance(wanted, bool) or not isinstance(wanted, int) or not 0 < wanted <= MOST_HITS:
            raise BadRequest(f"`topk` must be a whole number from 1 to {MOST_HITS}")
        scores = body.get("return_scores", False)
        if not isinstance(scores, bool):
            raise BadRequest("`return_scores` must be true or false")
        return _Asked(texts, wanted, scores)


def _item(hit: Hit, scores: bool) -> dict[str, JsonValue]:
    document: dict[str, JsonValue] = {
        "id": hit.passage.id,
        "contents": contents_of(hit.passage),
    }
    return {"document": document, "score": hit.score} if scores else document


__all__ = ["MOST_HITS", "RetrieverRules", "retriever_app"]
