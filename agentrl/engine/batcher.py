"""Continuous batching: which tokens are computed in a step, and what becomes of the results.

Every step advances each running row: by one token when it is decoding, by a piece of its prompt
otherwise. Requests join and leave between any two steps.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from agentrl.engine.attention import Span
from agentrl.engine.base import Bucket, EngineStatistics
from agentrl.engine.cache import WORTH_KEEPING
from agentrl.engine.decoder import Decoder, FlatBatch
from agentrl.engine.rows import SEED_MASK, Request, Row
from agentrl.engine.sampler import Drawn, Draws, draw
from agentrl.engine.stops import Decodes, StopMatcher
from agentrl.engine.worker import Finished
from agentrl.errors import UserError
from agentrl.transcript import Int32Array

PREFILL_TOKENS = 256
"""Prompt tokens computed in one step, so that running rows do not wait long for new ones."""
KEYS_PER_CALL = 256
"""Masked keys that cost about as much as one more attention call."""


class _Wanted(NamedTuple):
    """A token whose logits are needed."""

    row: Row
    position: int
    """Of the token that these logits predict."""
    target: int
    """The token to score; -1 draws one."""


@dataclass(slots=True)
class _Plan:
    """A step under construction."""

    token_ids: list[int] = field(default_factory=list[int])
    slots: list[int] = field(default_factory=list[int])
    positions: list[int] = field(default_factory=list[int])
    spans: list[Span] = field(default_factory=list[Span])
    indices: list[int] = field(default_factory=list[int])
    """Place in the flat batch of each wanted token."""
    wanted: list[_Wanted] = field(default_factory=list[_Wanted])
    advanced: list[tuple[Row, int]] = field(default_factory=list[tuple[Row, int]])
    """Rows and the number of their tokens in this step."""

    def add(self, row: Row, n: int) -> None:
        """Take the next `n` pending tokens of a row."""
        start, first = len(self.token_ids), row.computed
        self.token_ids.extend(row.tokens[first : first + n].tolist())
        self.slots.extend([row.slot] * n)
        self.positions.extend(range(first, first + n))
        self.advanced.append((row, n))
        self._span(row, start, n)
        if row.request.scoring:
            for at in range(first, min(first + n, row.n_tokens - 1)):
                self.indices.append(start + at - first)
                self.wanted.append(_Wanted(row, at + 1, int(row.tokens[at + 1])))
        elif first + n == row.n_tokens:
            self.indices.append(start + n - 1)
            self.wanted.append(_Wanted(row, row.n_tokens, -1))

    def _span(self, row: Row, start: int, n: int) -> None:
        n_keys = row.computed + n
        last = self.spans[-1] if self.spans else None
        if n == 1 and last is not None and _joins(last, start, row.slot, n_keys):
            longest = max(last.n_keys, n_keys)
            self.spans[-1] = Span(last.start, start + 1, last.slot, False, longest)
        else:
            self.spans.append(Span(start, start + n, row.slot, n > 1, n_keys))

    def batch(self) -> FlatBatch:
        """The step's tokens as the decoder takes them."""
        return FlatBatch(
            np.array(self.token_ids, np.int32),
            np.array(self.slots, np.int64),
            np.array(self.positions, np.int64),
            self.spans,
            np.array(self.indices, np.int64),
        )

    def draws(self) -> Draws:
        """How each wanted token is drawn or scored; a scored one ignores top-k and top-p."""
        samplings = [w.row.request.sampling for w in self.wanted]
        scored = [w.target >= 0 for w in self.wanted]
        return Draws(
            np.array([s.temperature for s in samplings], np.float32),
            np.where(scored, 0, np.array([s.top_k for s in samplings], np.int64)),
            np.where(scored, 1, np.array([s.top_p for s in samplings])).astype(np.float32),
            np.array([s.seed & SEED_MASK for s in samplings], np.uint64),
            np.array([w.position for w in self.wanted], np.int64),
            np.array([w.target for w in self.wanted], np.int64),
            any(s.entropies for s in samplings),
        )


def _joins(last: Span, start: int, slot: int, n_keys: int) -> bool:
    """Whether one more decoded token belongs into the last attention call rather than a new one."""
    n = start - last.start
    if last.shared or last.slot + n != slot:
        return False
    longest = max(last.n_keys, n_keys)
    return (longest - last.n_keys) * n + longest - n_keys <= KEYS_PER_CALL


class Batcher:
    """The backend of `TransformersEngine`; lives on the engine's thread."""

    def __init__(self, decoder: Decoder, tokenizer: Decodes | None) -> None:
        self._decoder, self._tokenizer = decoder, tokenizer
        self._weights, self._cache = decoder.weights, decoder.cache
        self.max_context = self._cache.n_positions
        self.version = 0
        self._next_version: int | None = None
        """Set between `begin_update` and `finish_update`."""
        self._waiting: list[Request] = []
        self._rows: list[Row] = []
        """Row i sits in slot i."""
        self._matchers: dict[tuple[str, ...], StopMatcher] = {}
        self._generated = self._prefilled = self._found = 0
        self._busy_s = 0.0

    @property
    def busy(self) -> bool:
        """See `Backend.busy`; False between `begin_update` and `finish_update`."""
        return self._next_version is None and bool(self._rows or self._waiting)

    def submit(self, request: Request) -> None:
        """See `Backend.submit`. Raises UserError for a row that cannot be computed."""
        room = 0 if request.scoring else 1
        vocab = self._weights.shape.vocab
        request.check(vocab=vocab, max_context=self.max_context, room=room)
        if request.sampling.stop and self._tokenizer is None:
            raise UserError("stop strings need a tokenizer: give the engine one")
        self._waiting.append(request)

    @torch.inference_mode()
    def abort(self, request_id: int) -> None:
        """See `Backend.abort`. The row's keys and values stay findable."""
        self._waiting = [r for r in self._waiting if r.id != request_id]
        for row in self._rows:
            if row.request.id == request_id:
                self._remove(row)
                return

    @torch.inference_mode()
    def step(self) -> Sequence[Finished]:
        """See `Backend.step`: one token of each decoding row, some prompt tokens of the others."""
        started = time.perf_counter()
        self._admit()
        plan = self._plan()
        logits = self._decoder.logits(plan.batch())
        drawn = draw(logits, plan.draws()) if plan.wanted else None
        finished = self._advance(plan, drawn)
        self._busy_s += time.perf_counter() - started
        return finished

    def close(self) -> None:
        """Drop all requests; the weights go with the object."""
        self._rows.clear()
        self._waiting.clear()

    def begin_update(self, version: int) -> None:
        """Pause; the next `put`s make up version `version`."""
        if self._next_version is not None:
            raise RuntimeError("begin_update was called twice without finish_update")
        self._weights.begin()
        self._next_version = version

    @torch.inference_mode()
    def put(self, bucket: Bucket) -> None:
        """Copy some parameters."""
        if self._next_version is None:
            raise RuntimeError("put was called without begin_update")
        self._weights.put(bucket)

    @torch.inference_mode()
    def finish_update(self) -> None:
        """Use the new weights; running rows recompute their keys and values under them."""
        if self._next_version is None:
            raise RuntimeError("finish_update was called without begin_update")
        self._weights.seal()
        self._cache.clear()
        for row in self._rows:
            row.restart()
        self.version, self._next_version = self._next_version, None

    def statistics(self) -> EngineStatistics:
        """See `Engine.statistics`. The cache is preallocated: a row holds a slot or waits for one, so
        none is ever set back."""
        return EngineStatistics(
            len(self._rows),
            len(self._waiting),
            self._generated,
            self._prefilled,
            self._busy_s,
            kv_used=len(self._rows) / self._cache.n_running,
            cached_tokens=self._found,
        )

    def _admit(self) -> None:
        """Give waiting requests a slot; one whose prefix is just being computed waits for it."""
        still: list[Request] = []
        for i, request in enumerate(self._waiting):
            if len(self._rows) == self._cache.n_running:
                still.extend(self._waiting[i:])
                break
            prefix = None if request.scoring else self._cache.find(request.token_ids)
            n_found = prefix.n_tokens if prefix is not None else 0
            if not request.scoring and self._soon(request.token_ids) >= n_found + WORTH_KEEPING:
                still.append(request)
                continue
            row = self._new_row(request)
            if prefix is not None:
                self._cache.copy(prefix.slot, row.slot, n_found)
                row.computed = n_found
                self._found += n_found
            self._rows.append(row)
        self._waiting = still

    def _new_row(self, request: Request) -> Row:
        n, sampling = len(request.token_ids), request.sampling
        limit = n if request.scoring else min(n + sampling.max_tokens, self.max_context)
        tokens = np.empty(limit, np.int32)
        tokens[:n] = request.token_ids
        matcher = None
        if sampling.stop and self._tokenizer is not None:
            if sampling.stop not in self._matchers:
                self._matchers[sampling.stop] = StopMatcher(self._tokenizer, sampling.stop)
            matcher = self._matchers[sampling.stop]
        return Row(request, len(self._rows), limit, matcher, tokens, n)

    def _soon(self, token_ids: Int32Array) -> int:
        """Longest prefix of a row that another row is about to compute, in tokens."""
        best = 0
        for row in self._rows:
            n = min(row.n_tokens, len(token_ids) - 1)
            if row.pending > 1 and n > best:
                differs = np.flatnonzero(row.tokens[:n] != token_ids[:n])
                best = max(best, int(differs[0]) if len(differs) else n)
        return best

    def _plan(self) -> _Plan:
        plan, budget = _Plan(), PREFILL_TOKENS
        for row in self._rows:
            n = row.pending
            if n > 1:
                n = min(n, budget)
                budget -= n
            if n:
                plan.add(row, n)
        self._prefilled += PREFILL_TOKENS - budget
        return plan

    def _advance(self, plan: _Plan, drawn: Drawn | None) -> list[Finished]:
        for row, n in plan.advanced:
            row.computed += n
        if drawn is None:
            return self._scored(plan)
        ids, logprobs = drawn.token_ids.tolist(), drawn.logprobs.tolist()
        entropies: list[float] = [] if drawn.entropies is None else drawn.entropies.tolist()
        finished: list[Finished] = []
        for i, (row, _, target) in enumerate(plan.wanted):
            if target >= 0:
                row.logprobs.append(logprobs[i])
                continue
            entropy = entropies[i] if row.request.sampling.entropies else None
            row.extend(ids[i], logprobs[i], entropy, self.version)
            self._generated += 1
            end = row.ended()
            if end is not None:
                finished.append(Finished(row.request.id, row.generation(*end)))
                self._remove(row)
        return finished + self._scored(plan)

    def _scored(self, plan: _Plan) -> list[Finished]:
        """Scored rows that are complete."""
        finished: list[Finished] = []
        for row, _ in plan.advanced:
            if row.request.scoring and not row.pending:
                logprobs = np.array([0.0, *row.logprobs], np.float32)
                finished.append(Finished(row.request.id, logprobs))
                self._remove(row)
        return finished

    def _remove(self, row: Row) -> None:
        """Free a row's slot, keep its keys and values findable, close the hole."""
        if not row.request.scoring:
            self._cache.stash(row.slot)
        last = self._rows.pop()
        freed = last.slot
        if last is not row:
            self._cache.copy(freed, row.slot, last.computed)
            last.slot = row.slot
            self._rows[row.slot] = last
        self._cache.release(freed)
