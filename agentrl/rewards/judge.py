"""A judge behind any OpenAI-compatible endpoint.

One chat completion per prompt, at temperature 0 unless told otherwise. Too many requests, server errors
and lost connections are tried again with growing, jittered pauses; everything else is a WorldFault at
once. Replies are kept, so that an equal prompt is not asked again. The key comes from a named
environment variable and appears in no message, no log and no repr.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from hashlib import blake2b
from http import HTTPStatus
from random import Random
from typing import TYPE_CHECKING, Any, final

from agentrl.errors import DeadlineExceeded, SetupError, UserError, WorldFault
from agentrl.seeds import derive

if TYPE_CHECKING:
    import httpx

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Status codes worth another try."""
PAUSE_S = 0.5
"""The first pause; each following is twice as long."""
LONGEST_PAUSE_S = 30.0


@final
class OpenAIJudge:
    """Grades through `POST {base_url}/chat/completions`."""

    def __init__(
        self,
        *,
        base_url: str,
        model_id: str,
        key_env: str | None = None,
        temperature: float = 0.0,
        max_tokens: int = 1024,
        system: str | None = None,
        deadline_s: float = 120.0,
        request_s: float = 60.0,
        retries: int = 4,
        concurrency: int = 16,
        cache: int = 10_000,
    ) -> None:
        """Check the settings; nothing is sent yet.

        Args:
            base_url: such as `http://127.0.0.1:8000/v1`.
            model_id: the model's name at the endpoint.
            key_env: environment variable that holds the key; None sends none.
            temperature: of the judge's sampling.
            max_tokens: of its reply.
            system: a system message before every prompt.
            deadline_s: for one grade, its queueing, pauses and retries included.
            request_s: for one request.
            retries: further tries after the first.
            concurrency: requests that may run at once.
            cache: replies kept, oldest dropped first; 0 keeps none.

        Raises UserError on a bad setting, SetupError when httpx or the named key is missing.
        """
        if not base_url.startswith(("http://", "https://")):
            raise UserError(f"judge.base_url starts with http:// or https://, not {base_url!r}")
        if min(deadline_s, request_s) <= 0 or retries < 0 or concurrency < 1 or cache < 0:
            raise UserError(
                "judge needs deadline_s and request_s > 0, retries and cache >= 0, concurrency >= 1"
            )
        _httpx()
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._headers = _headers(key_env)
        self._model = model_id
        self._body: dict[str, float | int] = {"temperature": temperature, "max_tokens": max_tokens}
        self._system = system
        self._deadline_s, self._request_s = deadline_s, request_s
        self._retries, self._room = retries, cache
        self._slots = asyncio.Semaphore(concurrency)
        self._cache: OrderedDict[str, str] = OrderedDict()
        self._client: httpx.AsyncClient | None = None
        self._asking = 0
        self.requests = 0
        """Requests sent so far, retries included."""
        self.cached = 0
        """Grades answered from the cache."""

    def __repr__(self) -> str:
        return f"OpenAIJudge({self._url!r}, {self._model!r})"

    async def grade(self, prompt: str) -> str:
        """The reply's text. Raises WorldFault when it cannot be had in time."""
        key = blake2b(prompt.encode("utf-8", "replace"), digest_size=16).hexdigest()
        if key in self._cache:
            self.cached += 1
            self._cache.move_to_end(key)
            return self._cache[key]
        self._asking += 1
        try:
            async with asyncio.timeout(self._deadline_s), self._slots:
                reply = await self._persist(prompt, Random(derive("judge", key)))
        except TimeoutError as error:
            told = f"the judge {self._model} gave no grade within {self._deadline_s:g} s"
            raise DeadlineExceeded(told) from error
        finally:
            self._asking -= 1
            if not self._asking:
                await asyncio.shield(self._close())
        if self._room:
            self._cache[key] = reply
            if len(self._cache) > self._room:
                self._cache.popitem(last=False)
        return reply

    async def _close(self) -> None:
        """Nobody is asking: connections are shared by grades in flight and outlive none of them."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _persist(self, prompt: str, rng: Random) -> str:
        httpx = _httpx()
        problem = ""
        for attempt in range(self._retries + 1):
            try:
                response = await self._post(prompt)
            except httpx.TransportError as error:
                problem, asked_s = type(error).__name__, 0.0
            else:
                if response.status_code == HTTPStatus.OK:
                    return _content(response, self._model)
                problem, asked_s = f"status {response.status_code}", _retry_after(response)
                if response.status_code not in RETRIED:
                    raise WorldFault(f"the judge {self._model} refused a request: {problem}")
            if attempt < self._retries:
                pause = min(LONGEST_PAUSE_S, PAUSE_S * 2**attempt) * (0.5 + rng.random())
                await asyncio.sleep(max(pause, asked_s))
        raise WorldFault(f"the judge {self._model} failed {self._retries + 1} times: {problem}")

    async def _post(self, prompt: str) -> httpx.Response:
        client = self._client or _httpx().AsyncClient(
            headers=self._headers, timeout=self._request_s
        )
        self._client = client
        messages = [{"role": "user", "content": prompt}]
        if self._system is not None:
            messages.insert(0, {"role": "system", "content": self._system})
        self.requests += 1
        body = {"model": self._model, "messages": messages, **self._body}
        return await client.post(self._url, json=body)


def _headers(key_env: str | None) -> dict[str, str]:
    if key_env is None:
        return {}
    key = os.environ.get(key_env, "")
    if not key:
        raise SetupError(f"judge.key_env names {key_env}, which is not set; export it first")
    return {"Authorization": f"Bearer {key}"}


def _retry_after(response: httpx.Response) -> float:
    """Seconds the server asked to wait, bounded; 0 when it did not say."""
    said = response.headers.get("retry-after", "")
    return min(LONGEST_PAUSE_S, float(said)) if said.isdigit() else 0.0


def _content(response: httpx.Response, model: str) -> str:
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise WorldFault(f"the judge {model} sent no chat completion") from error
    if not isinstance(content, str):
        raise WorldFault(f"the judge {model} sent a message without text")
    return content


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise SetupError(
            "the judge `openai` needs httpx; run `pip install agentrl-framework[judge]`"
        ) from error
    return httpx


__all__ = ["RETRIED", "OpenAIJudge"]
