"""Any OpenAI-compatible endpoint as an engine: for evaluation and for watching, never for training.

The endpoint speaks text, the loop speaks ids. `chat` reads the row back as messages and encodes the
answer once, with the tokenizer of `model.path`; `completions` sends the row's ids to a server of that
very model. Stop strings are looked for here and the connection is closed at the first, because
servers drop them from their answer and do not say which it was.

What an endpoint reports no logprobs for has none: such tokens are written down with policy version
`TEXT` and logprob 0.0, and a run that would train on them is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from random import Random
from time import monotonic
from typing import Any, ClassVar, Literal, final

from agentrl.chat.base import Renderer
from agentrl.engine.api.answer import Answer, AnswerReader, chat_piece, completion_piece
from agentrl.engine.api.conversation import conversation_of
from agentrl.engine.api.endpoint import Endpoint
from agentrl.engine.base import Bucket, EngineStatistics, Generation, Sampling
from agentrl.errors import EngineError, UserError
from agentrl.transcript import Float32Array, Int32Array, floats_array, ids_array
from agentrl.types import JsonValue, Message

TEXT = -1
"""Policy version of tokens that an endpoint wrote as text."""
SEEDS = 1 << 31
"""Seeds are sent below this: many servers take 32 bits."""
GO_ON = "Go on exactly where you stopped. Repeat nothing."
UNTRAINABLE = (
    "engine=api speaks text and cannot be trained: use engine=transformers or engine=vllm, or "
    "evaluate it with `agentrl eval engine=api ...`"
)


@final
class ApiEngine:
    """Any OpenAI-compatible endpoint, for `agentrl eval` and `agentrl run`."""

    trains: ClassVar[bool] = False
    """Its weights are not ours to change, and its tokens carry no logprobs."""

    def __init__(
        self,
        *,
        renderer: Renderer,
        base_url: str,
        model_id: str,
        key_env: str | None = None,
        mode: Literal["chat", "completions"] = "chat",
        open_turn: Literal["ask", "continue"] = "ask",
        max_context: int = 1 << 20,
        length_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens",
        send_seed: bool = True,
        extra: Mapping[str, Any] | None = None,
        deadline_s: float = 300.0,
        request_s: float = 120.0,
        retries: int = 5,
        concurrency: int = 16,
    ) -> None:
        """Check the settings; nothing is sent yet.

        Args:
            renderer: of the run; its tokenizer counts and writes down what the endpoint says.
            base_url: such as `http://127.0.0.1:8000/v1`.
            model_id: the model's name at the endpoint.
            key_env: environment variable that holds the key; None sends none.
            mode: `chat` for any endpoint; `completions` sends ids to a server of the same model.
            open_turn: how `chat` goes on in an assistant's turn that a tool answered inside: `ask` by
                a user's message, which any endpoint takes; `continue` by `continue_final_message`
                (vLLM, SGLang).
            max_context: longest row in tokens of the renderer.
            length_field: what the endpoint calls the budget.
            send_seed: whether it takes a seed.
            extra: further fields of every request.
            deadline_s: of one generation, its queueing, pauses and retries included.
            request_s: between two pieces of an answer.
            retries: further tries after the first.
            concurrency: requests at once.

        Raises UserError on a bad setting, SetupError when httpx or the named key is missing.
        """
        if deadline_s <= 0:
            raise UserError("engine.deadline_s is above 0")
        self._renderer, self._model, self._mode, self._open_turn = (
            renderer,
            model_id,
            mode,
            open_turn,
        )
        self._max_context, self._deadline_s = max_context, deadline_s
        self._length_field, self._send_seed = length_field, send_seed
        self._extra = dict(extra or {})
        self._endpoint = Endpoint(
            base_url,
            key_env=key_env,
            request_s=request_s,
            retries=retries,
            concurrency=concurrency,
        )
        self._generated = self._prompted = 0
        self._busy_s = 0.0

    def __repr__(self) -> str:
        return f"ApiEngine({self._endpoint!r}, {self._model!r})"

    @property
    def version(self) -> int:
        """Always `TEXT`."""
        return TEXT

    @property
    def max_context(self) -> int:
        """See `Engine.max_context`."""
        return self._max_context

    async def open(self) -> None:
        """Nothing is sent yet."""
        await self._endpoint.open()

    async def generate(self, token_ids: Int32Array, sampling: Sampling) -> Generation:
        """Continue a row.

        Raises UserError for what an endpoint cannot honour or will always refuse, EngineError when it
        failed all tries or the deadline.
        """
        if sampling.top_k or sampling.entropies:
            what = "top_k" if sampling.top_k else "entropies"
            raise UserError(
                f"engine=api cannot honour {what}; leave it out or choose another engine"
            )
        row = ids_array(token_ids)
        if len(row) >= self._max_context:
            raise UserError(f"a row of {len(row)} tokens fills max_context: shorten it")
        rng, began = Random(sampling.seed), monotonic()
        try:
            async with asyncio.timeout(self._deadline_s):
                if self._mode == "chat":
                    answer = await self._chatted(row, sampling, rng)
                else:
                    answer = await self._completed(row, sampling, rng)
        except TimeoutError as error:
            raise EngineError(f"no answer within {self._deadline_s:g} s") from error
        finally:
            self._busy_s += monotonic() - began
        generation = self._generation(answer, sampling)
        self._prompted += len(row)
        self._generated += len(generation.token_ids)
        return generation

    async def score(self, token_ids: Int32Array, sampling: Sampling) -> Float32Array:
        """Raises UserError: an endpoint scores no rows."""
        raise UserError("engine=api scores no rows; choose another engine")

    async def begin_update(self, version: int) -> None:
        """Raises UserError: an endpoint cannot be trained."""
        raise UserError(UNTRAINABLE)

    async def put(self, bucket: Bucket) -> None:
        """Raises UserError: an endpoint cannot be trained."""
        raise UserError(UNTRAINABLE)

    async def finish_update(self) -> None:
        """Raises UserError: an endpoint cannot be trained."""
        raise UserError(UNTRAINABLE)

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        await self._endpoint.close()

    def statistics(self) -> EngineStatistics:
        """See `Engine.statistics`; busy time is the sum over requests."""
        return EngineStatistics(
            self._endpoint.running,
            self._endpoint.waiting,
            self._generated,
            self._prompted,
            self._busy_s,
        )

    async def _chatted(self, row: Int32Array, sampling: Sampling, rng: Random) -> Answer:
        said = conversation_of(self._renderer, row)
        body = self._body(sampling)
        messages = list(said.messages)
        if said.begun:
            messages.append(Message("assistant", said.begun))
            if self._open_turn == "ask":
                messages.append(Message("user", GO_ON))
            else:
                body |= {"continue_final_message": True, "add_generation_prompt": False}
        body["messages"] = [{"role": m.role, "content": m.content} for m in messages]
        return await self._endpoint.read(
            "/chat/completions", body, lambda: AnswerReader(sampling.stop, chat_piece), rng
        )

    async def _completed(self, row: Int32Array, sampling: Sampling, rng: Random) -> Answer:
        body = self._body(sampling) | {"prompt": row.tolist(), "logprobs": 1}
        return await self._endpoint.read(
            "/completions", body, lambda: AnswerReader(sampling.stop, completion_piece), rng
        )

    def _body(self, sampling: Sampling) -> dict[str, JsonValue]:
        body: dict[str, JsonValue] = {
            "model": self._model,
            "stream": True,
            "temperature": sampling.temperature,
            self._length_field: sampling.max_tokens,
        }
        if sampling.top_p < 1:
            body["top_p"] = sampling.top_p
        if self._send_seed:
            body["seed"] = sampling.seed % SEEDS
        return body | self._extra

    def _generation(self, answer: Answer, sampling: Sampling) -> Generation:
        """The answer's text as ids, at most as many as were asked for."""
        ended, stop = answer.stop == "stop_id", answer.stop
        ids = self._renderer.demo(answer.text, ended=ended).tolist()
        logprobs = self._logprobs(ids, answer)
        if len(ids) > sampling.max_tokens:
            ids, stop = ids[: sampling.max_tokens], "length"
        n = len(ids)
        found = answer.found if stop == "stop_text" else None
        return Generation(ids_array(ids), floats_array(logprobs[:n]), stop, ((n, TEXT),), found)

    def _logprobs(self, ids: Sequence[int], answer: Answer) -> list[float]:
        """The endpoint's logprobs where its tokens are ours one by one; else 0.0, which means none.

        The id that ends a turn has no text, so endpoints leave it out or tell it last.
        """
        told = [min(0.0, logprob) for _, logprob in answer.logprobs]
        tokens = [self._renderer.tokenizer.decode([i]) for i in ids][: len(told)]
        if not told or tokens != [token for token, _ in answer.logprobs][: len(ids)]:
            return [0.0] * len(ids)
        return [*told, *[0.0] * len(ids)][: len(ids)]
