"""ReSeek (2510.00568): a dense reward for judging each piece of evidence right.

R = sum_t gamma^(t-1) r_t over the judgements `<judge>Yes|No</judge>` in order and, last, the outcome.
A judgement that matches the ideal one earns 0.3; Yes where it is No costs 0.6; No where it is Yes 0.3.

The paper's ideal is a reranker's: score(observation, gold) > 0.7. It is read from the components
`reseek/ideal/<k>` (1 is Yes) when the environment records them. Deviation: without them the ideal is Yes
iff the observation contains a gold answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Shaped
from agentrl.rewards.answer_match import golds
from agentrl.rewards.base import COMPONENT, added, spent, with_tokens
from agentrl.rewards.texts import response_messages, turn_ends
from agentrl.trajectory import Group, Trajectory
from agentrl.transcript import Float32Array, floats_array
from agentrl.verify.text_answer import contains_match

_JUDGED = re.compile(r"<judge>\s*(Yes|No)\s*</judge>", re.IGNORECASE)
IDEAL = "reseek/ideal"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was said about one observation, and what should have been."""

    turn: int
    """Index of the policy's turn that says it."""
    said: bool
    ideal: bool


def judgements(trajectory: Trajectory) -> list[Judgement]:
    """The first verdict of the turn after each observation; turns without one give none."""
    found: list[Judgement] = []
    turn, seen, index = -1, "", 0
    wanted = golds(trajectory.task)
    for message in response_messages(trajectory):
        if message.role != "assistant":
            seen += message.content
            continue
        turn += 1
        said = _JUDGED.search(message.content)
        if said is not None and seen:
            recorded = trajectory.rewards.get(f"{IDEAL}/{index}")
            ideal = contains_match(seen, wanted) if recorded is None else recorded > 0.5
            found.append(Judgement(turn, said[1].lower() == "yes", ideal))
        index += bool(seen)
        seen = ""
    return found


def discounted(rewards: Sequence[float], gamma: float) -> float:
    """sum_t gamma^(t-1) r_t."""
    return sum(gamma**t * reward for t, reward in enumerate(rewards))


@dataclass(frozen=True, slots=True)
class ReSeek:
    """Adds the judgements to the outcome, both discounted."""

    gamma: float = 1.0
    """Not given in the paper."""
    match: float = 0.3
    false_yes: float = -0.6
    false_no: float = -0.3
    per_token: bool = False
    """Put each judgement at the last token of its turn instead of into the scalar."""
    component: str = COMPONENT

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise UserError(f"reseek.gamma is in (0, 1], not {self.gamma}")

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Remembers nothing."""
        judged = [judgements(t) for t in group.trajectories]
        values = [[self.value(j) for j in js] for js in judged]
        pairs = list(zip(group.trajectories, values, strict=True))
        changes = [
            self.gamma ** len(vs) * spent(t, self.component) - spent(t, self.component)
            for t, vs in pairs
        ]
        if not self.per_token:
            sums = [c + discounted(vs, self.gamma) for c, vs in zip(changes, values, strict=True)]
            return added(shaped, sums)
        placed = [self._placed(t, js) for t, js in zip(group.trajectories, judged, strict=True)]
        return with_tokens(group, added(shaped, changes), placed)

    def value(self, judgement: Judgement) -> float:
        """Reward of one judgement."""
        if judgement.said == judgement.ideal:
            return self.match
        return self.false_yes if judgement.said else self.false_no

    def _placed(self, trajectory: Trajectory, judged: Sequence[Judgement]) -> Float32Array:
        rewards = np.zeros(trajectory.n_tokens)
        ends = turn_ends(trajectory)
        for t, judgement in enumerate(judged):
            rewards[ends[min(judgement.turn, len(ends) - 1)]] += self.gamma**t * self.value(
                judgement
            )
        return floats_array(rewards)


__all__ = ["IDEAL", "Judgement", "ReSeek", "discounted", "judgements"]
