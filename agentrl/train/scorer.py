"""The Scorer that rewards are handed: the learner's models, asked off the event loop, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agentrl.points import ScoredModel
from agentrl.train.learner import Learner
from agentrl.transcript import Float32Array


class LearnerScorer:
    """Serves teacher-forced logprobs while the learner has nothing else to do."""

    def __init__(self, learner: Learner, busy: asyncio.Lock | None = None) -> None:
        """`busy` is held by whoever computes with the learner; an update beside the rollouts takes
        it too."""
        self._learner = learner
        self._busy = asyncio.Lock() if busy is None else busy

    async def logprobs(
        self, model: ScoredModel, rows: Sequence[Sequence[int]]
    ) -> list[Float32Array]:
        """See `agentrl.points.Scorer`. Raises UserError when the learner holds no such model."""
        async with self._busy:
            return await asyncio.to_thread(self._learner.score_rows, model, rows)


__all__ = ["LearnerScorer"]
