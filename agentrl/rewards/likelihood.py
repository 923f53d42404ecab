"""How likely the reference answer is after the policy's reasoning, through the scorer.

Shared by RLPR and R3. The row that is scored is the sampled row up to its answer, then the reference
in the answer's place; the baseline row has the prompt and no reasoning. Sampled ids are kept as they
are; only the reference is encoded, and only for scoring.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from agentrl.chat.base import Tokenizer
from agentrl.errors import DeadlineExceeded, UserError
from agentrl.points import ScoredModel, Services
from agentrl.rewards.texts import Run, char_ends, runs
from agentrl.trajectory import Trajectory
from agentrl.transcript import Float32Array, Origin, ids_array

TAIL = 256
"""Tokens at the end of a response in which its answer is looked for first."""


class ScoredRow(NamedTuple):
    """Ids to score, and which of them are the reference's."""

    token_ids: list[int]
    n_reference: int
    """The last so many ids."""


class Likelihoods(NamedTuple):
    """Logprobs [n] of the reference's tokens."""

    reasoned: Float32Array | None
    """After the reasoning; None when the response has no place for an answer."""
    bare: Float32Array
    """After the prompt alone."""


@dataclass(frozen=True, slots=True)
class ReferenceScore:
    """Builds and scores the two rows of a trajectory."""

    tokenizer: Tokenizer
    opens: str = "<answer>"
    """Text after which the answer stands; the last one in the response counts."""
    before: str = ""
    """Text between it and the reference, not scored, such as a line break."""
    always: bool = False
    """Without the opening text, write it after the response instead of scoring nothing."""
    under: ScoredModel = "policy"
    deadline_s: float = 300.0

    def __post_init__(self) -> None:
        if not self.opens or self.deadline_s <= 0:
            raise UserError("a likelihood reward needs a text in `opens` and deadline_s > 0")

    async def __call__(self, trajectory: Trajectory, services: Services) -> Likelihoods:
        """Raises UserError without a reference or a scorer, DeadlineExceeded when it is too slow."""
        if services.scorer is None:
            raise UserError("a likelihood reward needs a scorer; the run offers none")
        bare, reasoned = self.bare_row(trajectory), self.reasoned_row(trajectory)
        wanted = [bare] if reasoned is None else [bare, reasoned]
        try:
            async with asyncio.timeout(self.deadline_s):
                found = await services.scorer.logprobs(self.under, [r.token_ids for r in wanted])
        except TimeoutError as error:
            told = f"the scorer gave no logprobs within {self.deadline_s:g} s"
            raise DeadlineExceeded(told) from error
        parts = [
            logprobs[len(logprobs) - row.n_reference :]
            for row, logprobs in zip(wanted, found, strict=True)
        ]
        return Likelihoods(parts[1] if reasoned is not None else None, parts[0])

    def bare_row(self, trajectory: Trajectory) -> ScoredRow:
        """The prompt, the opening text, the reference."""
        row = trajectory.rows[-1]
        prompt = [s.token_ids for s in row.segments if s.origin is Origin.PROMPT]
        ids: list[int] = np.concatenate([ids_array([]), *prompt]).tolist()
        return self._row(trajectory, ids + self.tokenizer.encode_markup(self.opens), "")

    def reasoned_row(self, trajectory: Trajectory) -> ScoredRow | None:
        """The row up to its answer, then the reference."""
        ids = trajectory.rows[-1].token_ids.tolist()
        for run in reversed(runs(trajectory)):
            if run.row != len(trajectory.rows) - 1:
                break
            place = self._place(run)
            if place is not None:
                kept, overhang = place
                return self._row(trajectory, ids[: run.start + kept], overhang)
        if not self.always:
            return None
        return self._row(trajectory, ids + self.tokenizer.encode_markup(self.opens), "")

    def _place(self, run: Run) -> tuple[int, str] | None:
        """Tokens of the run before the answer, and the text between them and it."""
        n = len(run.token_ids)
        for start in self._starts(n):
            tail = run.token_ids[start:]
            text = self.tokenizer.decode(tail)
            at = text.rfind(self.opens)
            if at >= 0:
                offset = at + len(self.opens)
                ends = char_ends(self.tokenizer, tail)
                kept = int(np.searchsorted(ends, offset, side="right"))
                return start + kept, text[int(ends[kept - 1]) if kept else 0 : offset]
        return None

    def _starts(self, n: int) -> Iterator[int]:
        """Where to decode from: a tail that doubles until it is the whole run."""
        size = TAIL
        while size < n:
            yield n - size
            size *= 2
        yield 0

    def _row(self, trajectory: Trajectory, ids: list[int], overhang: str) -> ScoredRow:
        answer = trajectory.task.answer
        reference = [] if answer is None else self.tokenizer.encode(answer)
        if not reference:
            raise UserError(
                f"task {trajectory.task.id} has no reference answer; a likelihood reward needs one"
            )
        lead = self.tokenizer.encode_markup(overhang + self.before)
        return ScoredRow([*ids, *lead, *reference], len(reference))


__all__ = ["Likelihoods", "ReferenceScore", "ScoredRow"]
