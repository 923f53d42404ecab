"""R3, the reward of Direct Reasoning Optimization (2506.13351): reference tokens that reasoning decides.

sigma_j = std over the group's reasonings c_i of log pi(y_j | q, c_i, y_<j).
R3_i = sum_j w(sigma_j) [log pi(y_j | q, c_i, y_<j) - log pi(y_j | q, masked, y_<j)].
With `gamma` each token j is also weighted by prod_{k<j} P_k(j), P_k(j) = p_k + (1 - p_k)(1 - exp(-gamma
(j - k))): a reference token that the reasoning missed discounts the ones that follow it closely.

Deviations: w is not pinned in the text; w = sigma / sum(sigma), uniform when no token varies. The
masked context is the prompt without any reasoning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

import numpy as np
import numpy.typing as npt

from agentrl.chat.base import Tokenizer
from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Need, ScoredModel, Services, Shaped
from agentrl.rewards.base import COMPONENT, added, column, spent
from agentrl.rewards.likelihood import ReferenceScore
from agentrl.trajectory import Group, Trajectory

LOGP = "r3/logp"
MASKED = "r3/masked"
SAID = "r3/answer_tokens"

Doubles = npt.NDArray[np.float64]


@final
class R3Score:
    """Reward function: `r3/logp/<j>`, `r3/masked/<j>` per reference token, and the answer's length."""

    needs: ClassVar[frozenset[Need]] = frozenset({"scorer"})

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        opens: str = "<answer>",
        before: str = "",
        under: ScoredModel = "policy",
        deadline_s: float = 300.0,
        max_tokens: int = 64,
    ) -> None:
        """Score the first `max_tokens` of the reference after the response's reasoning."""
        if max_tokens < 1:
            raise UserError(f"r3.max_tokens is at least 1, not {max_tokens}")
        self._tokenizer, self._max_tokens = tokenizer, max_tokens
        self._score = ReferenceScore(
            tokenizer, opens=opens, before=before, always=True, under=under, deadline_s=deadline_s
        )

    async def __call__(self, trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        """Measurements only: the reward is a statistic of the group."""
        found = await self._score(trajectory, services)
        assert found.reasoned is not None  # `always` gives every response a place for the answer
        said = trajectory.answer or ""
        scores = {SAID: float(len(self._tokenizer.encode(said)))}
        for name, logprobs in ((LOGP, found.reasoned), (MASKED, found.bare)):
            kept = logprobs[: self._max_tokens].tolist()
            scores |= {f"{name}/{j}": value for j, value in enumerate(kept)}
        return scores


def reflection_rewards(logps: Doubles, masked: Doubles, gamma: float | None = None) -> Doubles:
    """R3 [G] from logprobs [G, n] after each reasoning and [G, n] after none."""
    sigma = logps.std(axis=0)
    n = logps.shape[1]
    weights = sigma / sigma.sum() if sigma.sum() > 0 else np.full(n, 1 / n)
    gains = weights * (logps - masked)
    if gamma is not None:
        gains = gains * propagated(np.exp(logps), gamma)
    return gains.sum(axis=1)


def propagated(probs: Doubles, gamma: float) -> Doubles:
    """prod_{k<j} P_k(j), [G, n], of probabilities [G, n]."""
    n = probs.shape[1]
    places: Doubles = np.arange(n, dtype=np.float64)
    distance: Doubles = places[None, :] - places[:, None]
    recovered = np.where(distance > 0, 1 - np.exp(-gamma * np.maximum(distance, 0)), 1.0)
    factors = probs[:, :, None] + (1 - probs[:, :, None]) * recovered[None]
    return factors.prod(axis=1)


@final
class R3:
    """Shaper: replaces the component by R3, plus the optional length term of the outcome."""

    def __init__(
        self, *, gamma: float | None = None, length: float | None = None, component: str = COMPONENT
    ) -> None:
        """`gamma` turns the decaying propagation on; `length` is b in 1 - b | |y| - |y_hat| | / |y|."""
        if gamma is not None and gamma < 0:
            raise UserError(f"r3.gamma is at least 0, not {gamma}")
        self._gamma, self._length, self._component = gamma, length, component

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Raises UserError when the logprobs were not recorded."""
        if not group.trajectories:
            return shaped._replace(writes=())
        logps, masked = _table(group, LOGP), _table(group, MASKED)
        rewards = reflection_rewards(logps, masked, self._gamma)
        if self._length is not None:
            off = np.abs(logps.shape[1] - np.array(column(group, SAID, "r3"))) / logps.shape[1]
            rewards = rewards + 1 - self._length * off
        changes = [
            float(reward) - spent(t, self._component)
            for t, reward in zip(group.trajectories, rewards, strict=True)
        ]
        return added(shaped, changes)


def _table(group: Group, name: str) -> Doubles:
    """[G, n] of the components `name/0` ... `name/n-1`."""
    columns = [column(group, f"{name}/0", "r3")]
    while all(f"{name}/{len(columns)}" in t.rewards for t in group.trajectories):
        columns.append(column(group, f"{name}/{len(columns)}", "r3"))
    return np.array(columns, np.float64).T


__all__ = ["LOGP", "MASKED", "R3", "SAID", "R3Score", "propagated", "reflection_rewards"]
