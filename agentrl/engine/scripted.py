"""An engine that plays a script: demos, tests, benchmarks, and supervised data made by the real loop.

It keeps the whole contract (stop strings, budgets, versions, pausing for updates) and computes
nothing. A script decides from the row's own ids, so any number of episodes may run at once.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from agentrl.chat.base import Renderer, Tokenizer
from agentrl.engine.base import Bucket, EngineStatistics, Generation, Sampling, StopKind
from agentrl.engine.stops import StopMatcher
from agentrl.errors import EngineError, UserError
from agentrl.registry import resolve
from agentrl.transcript import Float32Array, Int32Array, floats_array, ids_array
from agentrl.types import Task

UPDATE_TIMEOUT_S = 600.0
"""Longest wait of a request for an update that was begun."""


class TextCodec(Protocol):
    """What the engine needs of a tokenizer when a script speaks in text."""

    def encode(self, text: str, /) -> list[int]:
        """Ids of a reply's text."""
        ...

    def decode(self, token_ids: Sequence[int], /) -> str:
        """Text of ids, to find stop strings in."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """What a script may give when ids or text alone do not say enough."""

    content: str | Sequence[int]
    logprobs: Sequence[float] | None = None
    """One per id of `content`; None declares the engine's default for each."""
    entropies: Sequence[float] | None = None
    """One per id of `content`, in nats; None declares 0."""


class Pace(Protocol):
    """How long a scripted engine takes: it computes nothing, so its time is simulated."""

    async def spend(self, n_prompt: int, n_new: int) -> None:
        """Take as long as a request of `n_prompt` tokens that samples `n_new` does."""
        ...

    def statistics(self) -> EngineStatistics:
        """What an engine of this pace would say of itself."""
        ...


class SteadyPace:
    """Every request samples at its own constant speed, however many there are."""

    def __init__(self, tokens_per_s: float | None = None) -> None:
        """None answers at once."""
        if tokens_per_s is not None and tokens_per_s <= 0:
            raise UserError("tokens_per_s is positive")
        self._tokens_per_s = tokens_per_s
        self._running = self._generated = self._prefilled = 0
        self._busy_s = 0.0

    async def spend(self, n_prompt: int, n_new: int) -> None:
        """See `Pace.spend`."""
        self._running += 1
        try:
            if self._tokens_per_s is not None:
                self._busy_s += n_new / self._tokens_per_s
                await asyncio.sleep(n_new / self._tokens_per_s)
        finally:
            self._running -= 1
        self._generated += n_new
        self._prefilled += n_prompt

    def statistics(self) -> EngineStatistics:
        """See `Pace.statistics`; the busy time is the sum over requests."""
        return EngineStatistics(self._running, 0, self._generated, self._prefilled, self._busy_s)


Script: TypeAlias = Callable[[Int32Array, Sampling, int], "Reply | str | Sequence[int]"]
"""`(token_ids of the row, sampling, request index) -> what is generated`."""


def from_script(
    *, script: str, tokenizer: Tokenizer, renderer: Renderer, tasks: Sequence[Task] = ()
) -> ScriptedEngine:
    """`engine=scripted engine.script=NAME`: a policy without a model, made for the run's tasks.

    `script` names a factory `(tasks, tokenizer) -> Script` under `agentrl.scripts`.
    """
    made = resolve("script", script)(tasks, tokenizer)
    return ScriptedEngine(
        made, tokenizer=tokenizer, encode=renderer.demo, end_id=renderer.stop_ids[0]
    )


class ScriptedEngine:
    """Implements `agentrl.engine.base.Engine`."""

    def __init__(
        self,
        script: Script,
        *,
        tokenizer: TextCodec | None = None,
        encode: Callable[[str], Sequence[int] | Int32Array] | None = None,
        end_id: int | None = None,
        logprob: float = 0.0,
        tokens_per_s: float | None = None,
        pace: Pace | None = None,
        max_context: int = 1 << 20,
    ) -> None:
        """
        tokenizer: needed for text and stop strings. encode: how text becomes ids instead of
        `tokenizer.encode`, such as a renderer's `demo`, which knows control tokens. end_id: appended
        to replies given as text, so that they end the turn. logprob: declared of every token; 0.0 is
        certainty. tokens_per_s: simulated speed of each request; None answers at once. pace: another
        simulation of time, instead of `tokens_per_s`.
        """
        if logprob > 0:
            raise UserError("logprob is at most 0: 0.0 is certainty")
        self._script, self._tokenizer, self._end_id = script, tokenizer, end_id
        self._encode = encode
        self._logprob, self._max_context = logprob, max_context
        self._pace = SteadyPace(tokens_per_s) if pace is None else pace
        self._matchers: dict[tuple[str, ...], StopMatcher] = {}
        self._indices = itertools.count()
        self._version, self._next_version = 0, 0
        self._current = asyncio.Event()
        self._current.set()
        self._closed = False

    @property
    def version(self) -> int:
        """See `Engine.version`."""
        return self._version

    @property
    def max_context(self) -> int:
        """See `Engine.max_context`."""
        return self._max_context

    async def open(self) -> None:
        """Nothing to load."""

    async def generate(self, token_ids: Int32Array, sampling: Sampling) -> Generation:
        """Play the script's reply up to the first stop.

        A reply that reaches no stop ends with "length", as a budget that ran out would.
        """
        if len(token_ids) >= self._max_context:
            raise UserError(f"a row of {len(token_ids)} tokens fills max_context: shorten it")
        await self._ready()
        version, row = self._version, ids_array(token_ids)
        reply = self._script(row, sampling, next(self._indices))
        generation = self._play(row, sampling, self._declared(reply), version)
        await self._pace.spend(len(row), len(generation.token_ids))
        return generation

    async def score(self, token_ids: Int32Array, sampling: Sampling) -> Float32Array:
        """The declared default for every token; entry 0 is 0.0."""
        await self._ready()
        logprobs = np.full(len(token_ids), self._logprob, np.float32)
        logprobs[:1] = 0.0
        return floats_array(logprobs)

    async def begin_update(self, version: int) -> None:
        """Hold new requests back until `finish_update`."""
        self._current.clear()
        self._next_version = version

    async def put(self, bucket: Bucket) -> None:
        """A script has no parameters: nothing is kept."""

    async def finish_update(self) -> None:
        """Count the new version and let requests go on."""
        self._version = self._next_version
        self._current.set()

    async def close(self) -> None:
        """Refuse further requests; those that wait for an update are refused too."""
        self._closed = True
        self._current.set()

    def statistics(self) -> EngineStatistics:
        """See `Engine.statistics`; busy time is the simulated one."""
        return self._pace.statistics()

    async def _ready(self) -> None:
        if not self._current.is_set():
            async with asyncio.timeout(UPDATE_TIMEOUT_S):
                await self._current.wait()
        if self._closed:
            raise EngineError("engine scripted was closed")

    def _declared(self, reply: Reply | str | Sequence[int]) -> Generation:
        """The whole reply, before stops."""
        reply = reply if isinstance(reply, Reply) else Reply(reply)
        if isinstance(reply.content, str):
            encode = self._encode or self._codec().encode
            ids = [int(i) for i in encode(reply.content)]
            ids = ids if self._end_id is None else [*ids, self._end_id]
        else:
            ids = list(reply.content)
        n = len(ids)
        logprobs = [self._logprob] * n if reply.logprobs is None else reply.logprobs
        entropies = [0.0] * n if reply.entropies is None else reply.entropies
        return Generation(
            ids_array(ids),
            floats_array(logprobs),
            "length",
            ((n, 0),),
            None,
            floats_array(entropies),
        )

    def _play(
        self, row: Int32Array, sampling: Sampling, reply: Generation, version: int
    ) -> Generation:
        budget = min(sampling.max_tokens, self._max_context - len(row))
        ids = reply.token_ids.tolist()[:budget]
        n, stop, stop_text = self._stopped(ids, sampling)
        entropies = reply.entropies[:n] if reply.entropies is not None else None
        return Generation(
            reply.token_ids[:n],
            reply.logprobs[:n],
            stop,
            ((n, version),),
            stop_text,
            entropies if sampling.entropies else None,
        )

    def _stopped(self, ids: list[int], sampling: Sampling) -> tuple[int, StopKind, str | None]:
        """How many ids are generated, and what ends them."""
        matcher = self._matcher(sampling.stop) if sampling.stop else None
        for n, token_id in enumerate(ids, 1):
            if token_id in sampling.stop_ids:
                return n, "stop_id", None
            found = matcher.found(ids[:n]) if matcher is not None else None
            if found is not None:
                return n, "stop_text", found
        return len(ids), "length", None

    def _matcher(self, stop: tuple[str, ...]) -> StopMatcher:
        """One for each set of stop strings: what it learns about ids is worth keeping."""
        if stop not in self._matchers:
            self._matchers[stop] = StopMatcher(self._codec(), stop)
        return self._matchers[stop]

    def _codec(self) -> TextCodec:
        if self._tokenizer is None:
            raise UserError("a script of text, or a stop string, needs a tokenizer: give one")
        return self._tokenizer


class TurnScript:
    """Canned turns per task, told apart by what the row says: safe for concurrent episodes.

    The first key found in the row's text chooses the turns; the next turn is the first that the
    text after the key does not hold yet. When all were played the last one is repeated.
    """

    def __init__(self, turns: Mapping[str, Sequence[str]], tokenizer: TextCodec) -> None:
        """turns: text that occurs in the prompt of one task (its question) -> the model's turns."""
        self._turns = {key: tuple(values) for key, values in turns.items()}
        self._tokenizer = tokenizer
        if not all(self._turns.values()):
            raise UserError("every task of a TurnScript needs at least one turn")

    def __call__(self, token_ids: Int32Array, sampling: Sampling, index: int) -> str:
        """The turn that answers this row. Raises UserError when no key occurs in it."""
        text = self._tokenizer.decode(token_ids.tolist())
        for key, turns in self._turns.items():
            at = text.find(key)
            if at >= 0:
                return _next_turn(text[at + len(key) :], turns, sampling.stop)
        raise UserError(f"no turns are canned for the row {text[-200:]!r}: add a key that it holds")


def _next_turn(played: str, turns: Sequence[str], stop: tuple[str, ...]) -> str:
    at = 0
    for turn in turns:
        written = turn
        ends = [turn.find(s) + len(s) for s in stop if s in turn]
        if ends:
            written = turn[: min(ends)]
        found = played.find(written, at)
        if found < 0:
            return turn
        at = found + len(written)
    return turns[-1]
