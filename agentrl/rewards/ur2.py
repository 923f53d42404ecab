"""UR2 (2508.06165): first learn to write and retrieve by the rules, then to be right.

Stage 1, no correctness. An item without retrieval: any query is a violation; 1 if v = 0 else 0. An
item with retrieval: -0.5 fallbacks + (1 if v = 0 else -v), and in the first `warm_epochs` epochs
+3 for one query, +4 for more, a violation for none.
Stage 2: 2 acc + 1 [v = 0] - 0.5 fallbacks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Services, Shaped
from agentrl.rewards.base import COMPONENT, added, column, spent
from agentrl.rewards.texts import response_messages, turn_texts
from agentrl.trajectory import Group, Trajectory
from agentrl.types import Task

VIOLATIONS, QUERIES, FALLBACKS = "ur2/violations", "ur2/queries", "ur2/fallbacks"
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_documents|>")


@dataclass(frozen=True, slots=True)
class Ur2Rules:
    """Reward function: `ur2/violations`, `ur2/queries`, `ur2/fallbacks`, measurements.

    A violation each: not exactly one answer; unbalanced query tags or more than `max_queries`; a
    query of more than `query_words` words; a special token; Chinese characters; tags in the
    answer; a multiple-choice answer (metadata `kind: mc`) that is not one word, another answer
    longer than ten words and than the gold one.
    """

    opens: str = "<|begin_of_query|>"
    closes: str = "<|end_of_query|>"
    fallback: str = "This query requires design, computation, or complex reasoning"
    """How the observation starts that refuses a query."""
    max_queries: int = 4
    query_words: int = 20

    async def __call__(self, trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        """Reads the policy's own turns and the ledger's answers."""
        text = "\n".join(turn_texts(trajectory))
        observed = [m for m in response_messages(trajectory) if m.role != "assistant"]
        refused = sum(m.content.lstrip().startswith(self.fallback) for m in observed)
        return {
            VIOLATIONS: float(self._format(text) + self._answer(text, trajectory.task)),
            QUERIES: float(text.count(self.opens)),
            FALLBACKS: float(refused),
        }

    def _format(self, text: str) -> int:
        pattern = re.escape(self.opens) + "(.*?)" + re.escape(self.closes)
        queries = re.findall(pattern, text, flags=re.DOTALL)
        opened, closed = text.count(self.opens), text.count(self.closes)
        return (
            int(opened != closed or opened > self.max_queries)
            + sum(len(query.split()) > self.query_words for query in queries)
            + sum(text.count(token) for token in _SPECIAL)
            + int(_CHINESE.search(text) is not None)
        )

    def _answer(self, text: str, task: Task) -> int:
        answers = re.findall(r"<answer>(.*?)</answer>", text, flags=re.DOTALL)
        if len(answers) != 1:
            return 1
        n_words, n_gold = len(answers[0].split()), len((task.answer or "").split())
        choice = task.metadata.get("kind") == "mc"
        fits = n_words == 1 if choice else n_words <= max(10, n_gold)
        return int(not fits) + int("<" in answers[0])


def stage_one(
    *, retrieval: bool, epoch: int, queries: int, fallbacks: int, violations: int, warm: int = 15
) -> float:
    """The first stage's reward; `warm` epochs pay for querying."""
    if not retrieval:
        return float(violations + queries == 0)
    bonus = 0.0
    if epoch < warm:
        bonus = 0.0 if queries == 0 else 3.0 if queries == 1 else 4.0
        violations += queries == 0
    return bonus - 0.5 * fallbacks + (1.0 if violations == 0 else -float(violations))


@dataclass(frozen=True, slots=True)
class Ur2:
    """Replaces the component by the stage's reward; needs the reward function `ur2_rules`."""

    phase: Literal[1, 2] = 1
    steps_per_epoch: int = 100
    warm_epochs: int = 15
    retrieval: str = "retrieval"
    """Key of the task's metadata that says whether it is to be solved with retrieval."""
    component: str = COMPONENT

    def __post_init__(self) -> None:
        if self.steps_per_epoch < 1:
            raise UserError(f"ur2.steps_per_epoch is at least 1, not {self.steps_per_epoch}")

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Raises UserError when the counts were not recorded."""
        counts = zip(
            *(column(group, name, "ur2") for name in (VIOLATIONS, QUERIES, FALLBACKS)), strict=True
        )
        changes = [
            self._reward(t, int(v), int(q), int(f), ctx) - spent(t, self.component)
            for t, (v, q, f) in zip(group.trajectories, counts, strict=True)
        ]
        return added(shaped, changes)

    def _reward(
        self, t: Trajectory, violations: int, queries: int, fallbacks: int, ctx: Ctx
    ) -> float:
        if self.phase == 2:
            return 2 * t.rewards.get(self.component, 0.0) + (violations == 0) - 0.5 * fallbacks
        return stage_one(
            retrieval=bool(t.task.metadata.get(self.retrieval, False)),
            epoch=ctx.step // self.steps_per_epoch,
            queries=queries,
            fallbacks=fallbacks,
            violations=violations,
            warm=self.warm_epochs,
        )


__all__ = ["FALLBACKS", "QUERIES", "VIOLATIONS", "Ur2", "Ur2Rules", "stage_one"]
