"""The time a continuously batching engine would take, simulated: step latency, cache, preemption.

One step gives every running request one token and takes `step_ms + row_ms * batch`; prompts that
join a step add `prefill_ms` per 1,000 tokens to it. Requests hold their prompt and what they have
sampled in a cache of `kv_tokens`. Waiting ones are admitted first come first served while they fit;
when the cache is full the newest is set back to the head of the queue and computes its tokens again,
as vLLM does. Between two events the batch is constant, so steps are not played one by one: a request
costs O(log n), and 65,536 of them can be studied.
"""

from __future__ import annotations

import asyncio
from asyncio import Future, TimerHandle
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from agentrl.chat.base import Renderer, Tokenizer
from agentrl.engine.base import EngineStatistics
from agentrl.engine.scripted import ScriptedEngine
from agentrl.errors import EngineError, UserError
from agentrl.registry import resolve
from agentrl.types import Task


@dataclass(frozen=True, slots=True)
class Latency:
    """An engine's speed and room."""

    step_ms: float = 8.0
    """One step with an empty batch: the launch and the weights."""
    row_ms: float = 0.05
    """Each row of the batch adds this."""
    prefill_ms: float = 20.0
    """1,000 prompt tokens."""
    max_batch: int = 256
    kv_tokens: int = 1 << 20
    """Tokens whose keys and values fit."""

    def __post_init__(self) -> None:
        if min(self.step_ms, self.row_ms, self.prefill_ms) < 0 or self.step_ms + self.row_ms == 0:
            raise UserError(
                "step_ms, row_ms and prefill_ms are not negative, and a step takes time"
            )
        if self.max_batch < 1 or self.kv_tokens < 1:
            raise UserError("max_batch and kv_tokens are at least 1")

    def step_s(self, batch: int) -> float:
        """Seconds of one step with `batch` rows, prompts not counted."""
        return (self.step_ms + self.row_ms * batch) / 1000.0


@dataclass(slots=True, eq=False)
class _Request:
    order: int
    done: Future[None]
    n_prompt: int
    left: int
    """Tokens still to be sampled when it was last admitted."""
    ends: int = 0
    """Number of the step that gives its last token."""
    running: bool = False

    def __lt__(self, other: _Request) -> bool:
        return (self.ends, self.order) < (other.ends, other.order)


class BatchedPace:
    """Implements `agentrl.engine.scripted.Pace`. Seconds are those of the event loop's clock."""

    def __init__(self, latency: Latency) -> None:
        self._latency = latency
        self._waiting: deque[_Request] = deque()
        self._gone = 0
        """Waiting ones whose callers no longer do."""
        self._running: list[_Request] = []
        """A heap by the step at which they end."""
        self._newest: list[_Request] = []
        """Running ones in order of admission; some may have ended."""
        self._step: int = 0
        self._orders = 0
        self._held = 0
        """Tokens in the cache, as of step `_step`."""
        self._at = 0.0
        """When step `_step` ended."""
        self._timer: TimerHandle | None = None
        self._generated = self._prefilled = self._preemptions = 0
        self._busy_s = 0.0

    async def spend(self, n_prompt: int, n_new: int) -> None:
        """See `Pace.spend`. Raises EngineError for a request that the cache could never hold."""
        if n_prompt + n_new > self._latency.kv_tokens:
            raise EngineError(f"{n_prompt} + {n_new} tokens never fit {self._latency.kv_tokens}")
        loop = asyncio.get_running_loop()
        request = _Request(self._orders, loop.create_future(), n_prompt, n_new)
        self._orders += 1
        self._waiting.append(request)
        if not self._running:
            self._at = loop.time()
            self._later(0.0)  # whoever asks in the same moment shares the first step
        elif len(self._waiting) == 1 and self._fits(request):
            self._stop_at_next_step(loop.time())
        try:
            await request.done
        except asyncio.CancelledError:
            self._drop(request)
            raise

    def statistics(self) -> EngineStatistics:
        """See `Pace.statistics`."""
        return EngineStatistics(
            running=len(self._running),
            waiting=len(self._waiting) - self._gone,
            generated_tokens=self._generated,
            prefill_tokens=self._prefilled,
            busy_s=self._busy_s,
            kv_used=self._held / self._latency.kv_tokens,
            preemptions=self._preemptions,
        )

    def _later(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(at, self._event)

    def _stop_at_next_step(self, now: float) -> None:
        """Somebody can join: the step under way is the last of this batch."""
        step_s = self._latency.step_s(len(self._running))
        done = max(0, int((now - self._at) / step_s))
        self._later(self._at + (done + 1) * step_s)

    def _event(self) -> None:
        """At the end of a step: count what was done, let requests end, and admit others."""
        now = asyncio.get_running_loop().time()
        self._timer = None
        self._advance(now)
        while self._running and self._running[0].ends <= self._step:
            self._end(heappop(self._running))
        prefilled = self._admit()
        while self._held + len(self._running) > self._latency.kv_tokens:
            self._set_back()
        if not self._running:
            return
        prefill_s = prefilled * self._latency.prefill_ms / 1e6
        self._busy_s += prefill_s
        self._at = now + prefill_s
        batch = len(self._running)
        room = (self._latency.kv_tokens - self._held) // batch
        steps = max(1, min(self._running[0].ends - self._step, room))
        self._later(self._at + steps * self._latency.step_s(batch))

    def _advance(self, now: float) -> None:
        batch = len(self._running)
        if not batch:
            return
        step_s = self._latency.step_s(batch)
        steps = min(round((now - self._at) / step_s), self._running[0].ends - self._step)
        self._step += steps
        self._held += steps * batch
        self._generated += steps * batch
        self._busy_s += steps * step_s
        self._at += steps * step_s

    def _end(self, request: _Request) -> None:
        request.running = False
        self._held -= request.n_prompt + request.left
        if not request.done.done():
            request.done.set_result(None)

    def _fits(self, request: _Request) -> bool:
        """One more token of everyone must fit as well."""
        batch = len(self._running) + 1
        room = self._latency.kv_tokens - self._held - request.n_prompt
        return batch <= self._latency.max_batch and room >= batch

    def _admit(self) -> int:
        """Take in who fits; the prompt tokens that has to be computed."""
        prefilled = 0
        while self._waiting:
            request = self._waiting[0]
            if request.done.done():
                self._waiting.popleft()
                self._gone -= 1
            elif self._fits(request):
                self._waiting.popleft()
                prefilled += self._start(request)
            else:
                break
        return prefilled

    def _start(self, request: _Request) -> int:
        request.ends, request.running = self._step + request.left, True
        heappush(self._running, request)
        if len(self._newest) > 2 * len(self._running):
            self._newest = [r for r in self._newest if r.running]
        self._newest.append(request)
        self._held += request.n_prompt
        self._prefilled += request.n_prompt
        return request.n_prompt

    def _set_back(self) -> None:
        """The newest loses its place; what it has sampled is computed again as a prompt."""
        request = self._newest.pop()
        if not request.running:
            return
        sampled = request.left - (request.ends - self._step)
        self._remove(request, sampled)
        request.n_prompt, request.left = request.n_prompt + sampled, request.left - sampled
        self._waiting.appendleft(request)
        self._preemptions += 1

    def _remove(self, request: _Request, sampled: int) -> None:
        request.running = False
        self._running.remove(request)
        heapify(self._running)
        self._held -= request.n_prompt + sampled

    def _drop(self, request: _Request) -> None:
        """Its caller has gone."""
        if not request.running:
            self._gone += request.done.cancelled()  # else it ended in the same moment
            return
        now = asyncio.get_running_loop().time()
        step_s = self._latency.step_s(len(self._running))
        self._advance(self._at + int(max(0.0, now - self._at) / step_s) * step_s)
        self._remove(request, request.left - (request.ends - self._step))
        self._later(now)


def from_script(
    *,
    script: str,
    tokenizer: Tokenizer,
    renderer: Renderer,
    tasks: Sequence[Task] = (),
    step_ms: float = 8.0,
    row_ms: float = 0.05,
    prefill_ms: float = 20.0,
    max_batch: int = 256,
    kv_tokens: int = 1 << 20,
) -> ScriptedEngine:
    """`engine=simulated engine.script=NAME`: what a script plays, at the speed of a real engine.

    step_ms, row_ms: a step with n rows takes step_ms + n row_ms. prefill_ms: of 1,000 prompt tokens.
    max_batch: rows computed together. kv_tokens: tokens whose keys and values fit.
    """
    latency = Latency(step_ms, row_ms, prefill_ms, max_batch, kv_tokens)
    return ScriptedEngine(
        resolve("script", script)(tasks, tokenizer),
        tokenizer=tokenizer,
        encode=renderer.demo,
        end_id=renderer.stop_ids[0],
        pace=BatchedPace(latency),
    )


__all__ = ["BatchedPace", "Latency", "from_script"]
