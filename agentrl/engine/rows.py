"""The requests an in-process engine is working on, each with its place in the cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from agentrl.engine.base import Generation, Sampling, StopKind
from agentrl.engine.stops import StopMatcher
from agentrl.errors import UserError
from agentrl.transcript import Float32Array, Int32Array

Result: TypeAlias = Generation | Float32Array
"""What a finished request gives: a generation, or the logprobs of a scored row."""

SEED_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One call of `generate` or `score`."""

    id: int
    token_ids: Int32Array
    """The row so far, shape [t]."""
    sampling: Sampling
    scoring: bool = False
    """True: give the logprobs of `token_ids` instead of new tokens."""

    def check(self, *, vocab: int, max_context: int, room: int) -> None:
        """Raises UserError for a row that is empty, too long with `room` more tokens, or not ids."""
        n = len(self.token_ids)
        if n == 0:
            raise UserError("an empty row cannot be continued: give at least one token")
        if n + room > max_context:
            raise UserError(
                f"a row of {n} tokens leaves no room in engine.max_context={max_context}: "
                "end the episode before, or raise it"
            )
        if self.token_ids.max() >= vocab or self.token_ids.min() < 0:
            raise UserError(f"a token id lies outside the model's vocabulary of {vocab}")


@dataclass(slots=True, eq=False)
class Row:
    """A running request."""

    request: Request
    slot: int
    limit: int
    """Most tokens the row may reach, prompt included."""
    matcher: StopMatcher | None
    tokens: Int32Array
    """Buffer of `limit` ids, of which `n_tokens` are set."""
    n_tokens: int
    computed: int = 0
    """Leading tokens whose keys and values are in the cache under the present weights."""
    generated: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    entropies: list[float] = field(default_factory=list[float])
    runs: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Runs `(n_tokens, version)` of what was generated."""

    @property
    def pending(self) -> int:
        """Tokens still to be computed before the next one can be drawn."""
        return self.n_tokens - self.computed

    def restart(self) -> None:
        """The weights changed: recompute all keys and values, keep the tokens.

        A row that is being scored starts over, so that one version gives all its logprobs.
        """
        self.computed = 0
        if self.request.scoring:
            self.logprobs.clear()

    def extend(self, token: int, logprob: float, entropy: float | None, version: int) -> None:
        """Append a sampled token."""
        self.tokens[self.n_tokens] = token
        self.n_tokens += 1
        self.generated.append(token)
        self.logprobs.append(logprob)
        if entropy is not None:
            self.entropies.append(entropy)
        if self.runs and self.runs[-1][1] == version:
            self.runs[-1] = (self.runs[-1][0] + 1, version)
        else:
            self.runs.append((1, version))

    def ended(self) -> tuple[StopKind, str | None] | None:
        """Why the newest token ends the generation, or None."""
        if self.generated[-1] in self.request.sampling.stop_ids:
            return "stop_id", None
        found = self.matcher.found(self.generated) if self.matcher is not None else None
        if found is not None:
            return "stop_text", found
        return ("length", None) if self.n_tokens >= self.limit else None

    def generation(self, stop: StopKind, stop_text: str | None) -> Generation:
        """The finished request's record."""
        wants = self.request.sampling.entropies
        return Generation(
            np.array(self.generated, np.int32),
            np.array(self.logprobs, np.float32),
            stop,
            tuple(self.runs),
            stop_text,
            np.array(self.entropies, np.float32) if wants else None,
        )
