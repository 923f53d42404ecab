"""Cog-Rethinker (2510.15979): direct, then taken apart, then refined, while nobody solves a task.

Direct answers first. A task that none solved is asked again, with solved tasks shown beside it, to be
taken apart into smaller problems; still unsolved, wrong answers are shown for refinement. Right answers
of both stages come back under the direct prompt.

Deviation: demonstrations are retrieved among the tasks this run has solved itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, cast

from agentrl.errors import UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.plans.openings import asking
from agentrl.rollout.plans.retrieval import bm25
from agentrl.rollout.plans.rows import as_demo
from agentrl.rollout.plans.stage import Stage, in_order, response_of
from agentrl.trajectory import Group, Trajectory
from agentrl.types import JsonValue, Task

DECOMPOSE = (
    "\n\n{demos}Take this problem apart into smaller ones, solve them one by one, and put their "
    "results together for the answer."
)
DEMO = "A solved problem:\n{question}\n{answer}\n\n"
REFINE = "\n\nAn earlier attempt was wrong:\n{answer}\n\nFind its mistake and solve the problem correctly."


class CogRethinker:
    """`group_size` direct siblings; of an unsolved task also the right answers of two more stages."""

    def __init__(
        self,
        *,
        group_size: int = 8,
        tries: int = 4,
        demos: int = 2,
        memory: int = 200,
        learn: Literal["sft", "policy"] = "sft",
        decompose: str | None = None,
        demo: str | None = None,
        refine: str | None = None,
        component: str = "env",
    ) -> None:
        """Make the plan.

        Args:
            group_size: direct siblings.
            tries: answers of each further stage.
            demos: solved tasks shown while taking apart; those nearest by BM25.
            memory: solved tasks that are remembered, the newest.
            learn: `sft` returns right answers as DEMO under the direct prompt, for the term
                `supervised` (the paper's), and takes the wrong ones of that group out of the
                gradient, as dynamic sampling would; `policy` trains them by ratio under the
                direct prompt (ratio mode `relabel`), with the wrong ones.
            decompose: put behind the question in stage 2; `{demos}` has its place.
            demo: one solved task; `{question}` and `{answer}` have their places.
            refine: put behind the question in stage 3; `{answer}` has its place.
            component: of the reward, that decides what is solved: 1 or more.

        A text that is null is the module's own.

        Raises UserError on numbers below 1 or a missing place.
        """
        decompose = DECOMPOSE if decompose is None else decompose
        refine = REFINE if refine is None else refine
        if tries < 1 or demos < 0 or memory < 1:
            raise UserError("rollout.plan.tries and memory are at least 1, demos at least 0")
        if "{answer}" not in refine or "{demos}" not in decompose:
            raise UserError("rollout.plan.refine needs {answer} in it, and decompose {demos}")
        self._n, self._tries, self._demos, self._memory = group_size, tries, demos, memory
        self._learn, self._component = learn, component
        self._decompose, self._refine = decompose, refine
        self._demo = DEMO if demo is None else demo
        self._solved: dict[str, str] = {}
        """Question -> a right answer, oldest first."""

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """Direct siblings, then right answers of the stages in sibling order."""
        stage = Stage(task, services, ctx)
        direct = await in_order([stage.run(i) for i in range(self._n)])
        failed = [t for t in direct if t.error is None]
        if not failed or await self._right(stage, failed):
            return Group(task, tuple(direct), ctx.step)
        shown = self._decompose.replace("{demos}", self._retrieved(task.question))
        second = await self._asked(stage, self._n, [shown] * self._tries)
        right = await self._right(stage, second)
        if not right:
            wrong = ([t for t in second if t.error is None] + failed)[: self._tries]
            texts = [self._refine.replace("{answer}", response_of(t)) for t in wrong]
            right = await self._right(stage, await self._asked(stage, self._n + self._tries, texts))
        return Group(task, (*self._left(direct, right), *map(self._taught, right)), ctx.step)

    async def _asked(self, stage: Stage, first: int, texts: Sequence[str]) -> list[Trajectory]:
        return await in_order(
            [
                stage.run(first + i, asking(text, ratio_mode="relabel"))
                for i, text in enumerate(texts)
            ]
        )

    async def _right(self, stage: Stage, played: Sequence[Trajectory]) -> list[Trajectory]:
        scores = await stage.scores(played, self._component)
        return [t for t, score in zip(played, scores, strict=True) if score >= 1]

    def _retrieved(self, question: str) -> str:
        """The nearest solved tasks as text, the nearest last: closest to the question asked."""
        known = list(self._solved.items())
        scores = bm25(question, [text for text, _ in known])
        best = sorted(range(len(known)), key=lambda i: (-scores[i], i))[: self._demos]
        return "".join(
            self._demo.replace("{question}", known[i][0]).replace("{answer}", known[i][1])
            for i in reversed(best)
            if scores[i] > 0
        )

    def _left(
        self, direct: Sequence[Trajectory], right: Sequence[Trajectory]
    ) -> Sequence[Trajectory]:
        """The direct answers; out of the gradient where their right answer is only imitated."""
        if not right or self._learn == "policy":
            return direct
        return [replace(t, excluded=t.excluded or "unsolved") for t in direct]

    def _taught(self, trajectory: Trajectory) -> Trajectory:
        if self._learn == "sft":
            trajectory = replace(trajectory, rows=tuple(map(as_demo, trajectory.rows)))
        return trajectory.scored(**{"rethought/right": 1.0})

    def observe(self, groups: Sequence[Group], ctx: Ctx) -> None:
        """Remember a right answer of every solved task."""
        for group in groups:
            solved = next((t for t in group.trajectories if t.correct), None)
            if solved is not None:
                self._solved.pop(group.task.question, None)
                self._solved[group.task.question] = response_of(solved)
        for question in list(self._solved)[: -self._memory]:
            del self._solved[question]

    def state(self) -> Mapping[str, JsonValue]:
        """The remembered tasks, oldest first."""
        return {"solved": [[question, answer] for question, answer in self._solved.items()]}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Go on from `state`."""
        self._solved = dict(cast("Sequence[tuple[str, str]]", state["solved"]))


__all__ = ["CogRethinker"]
