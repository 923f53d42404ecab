"""RLPR (2506.18254): the reference answer's mean probability instead of a verifier.

r = mean over the reference's tokens of P(token | prompt, the policy's reasoning, tokens before it),
probabilities averaged, not multiplied. Debiased: r_hat = max(0, r - r0), r0 being the same without
reasoning. Reward = 0.9 r_hat + 0.1 format. The released scripts leave r0 out: `debias: false`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

import numpy as np

from agentrl.chat.base import Tokenizer
from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Need, ScoredModel, Services, Shaped
from agentrl.rewards.base import COMPONENT, added, column, spent
from agentrl.rewards.likelihood import ReferenceScore
from agentrl.trajectory import Group, Trajectory

PROB = "rlpr/prob"
BASE = "rlpr/base"


@final
class RlprScore:
    """Reward function: `rlpr/prob` (r) and `rlpr/base` (r0), measurements."""

    needs: ClassVar[frozenset[Need]] = frozenset({"scorer"})

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        opens: str = "<answer>",
        before: str = "",
        under: ScoredModel = "policy",
        deadline_s: float = 300.0,
    ) -> None:
        """Score the reference after the last `opens` (and `before`) of the response.

        A response without `opens` has probability 0.
        """
        self._score = ReferenceScore(
            tokenizer, opens=opens, before=before, under=under, deadline_s=deadline_s
        )

    async def __call__(self, trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        """Both means, each in [0, 1]."""
        found = await self._score(trajectory, services)
        prob = 0.0 if found.reasoned is None else float(np.exp(found.reasoned).mean())
        return {PROB: prob, BASE: float(np.exp(found.bare).mean())}


@final
class Rlpr:
    """Shaper: replaces the component and the format's by the paper's reward."""

    def __init__(
        self,
        *,
        share: float = 0.1,
        debias: bool = True,
        format: str = "format",
        component: str = COMPONENT,
    ) -> None:
        """Take (1 - share) r_hat + share format.

        Raises UserError when the share is not in [0, 1].
        """
        if not 0 <= share <= 1:
            raise UserError(f"rlpr.share is in [0, 1], not {share}")
        self._share, self._debias = share, debias
        self._format, self._component = format, component

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """A trajectory without the format component counts as malformed."""
        probs = column(group, PROB, "rlpr")
        bases = column(group, BASE, "rlpr") if self._debias else [0.0] * len(probs)
        changes = [
            (1 - self._share) * max(0.0, prob - base)
            + self._share * t.rewards.get(self._format, 0.0)
            - spent(t, self._component, self._format)
            for t, prob, base in zip(group.trajectories, probs, bases, strict=True)
        ]
        return added(shaped, changes)


__all__ = ["BASE", "PROB", "Rlpr", "RlprScore"]
