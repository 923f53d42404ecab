"""INSPO (2512.01945): system instructions as a population that lives and dies with the policy.

Each group works under one instruction, drawn by softmax of the weights, so its advantages are taken
among equals; the group's mean reward moves that instruction's weight. Every `every` steps the worse
half goes; children of the survivors take their places with their parents' weights: written by the
run's judge model from the lowest-paid trajectories, or, without one (or when it answers nothing
usable), recombined from the sentences of two survivors. A child that does worse than its parent on
the newest `proxy` tasks, under the present policy, is replaced by its parent's text.

The paper's rules for weights, tau, K and the size were not to be had; the defaults are this project's.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, cast

from agentrl.errors import UserError, WorldFault
from agentrl.points import Ctx, Judge, Services
from agentrl.rollout.plans.instructions import Instruction, chosen, credited, pruned, recombined
from agentrl.rollout.plans.siblings import instructed, sampled
from agentrl.seeds import derive
from agentrl.trajectory import Group
from agentrl.trajectory_json import task_json
from agentrl.types import JsonValue, Task

USED = "inspo/instruction"
"""The measurement that names a trajectory's instruction by its number."""
DEFAULT = (
    "Think step by step. Use a tool when it helps. Give the final answer as asked.",
    "Plan before you act. Check every result of a tool. Answer briefly.",
    "Use the tools for everything that can be computed or looked up. Trust their results.",
    "Work out the answer first. Verify it with a tool. Correct yourself when they differ.",
)
PROXY_SIBLING = 1 << 20
"""First sibling number of proxy episodes, far from any trained sibling's."""
ASKED = """An agent works under this instruction:
<instruction>
{instruction}
</instruction>
These attempts under it and its like earned little:

{failures}

Say in one sentence what went wrong, then write a better instruction of at most 120 words for all tasks of \
this kind between <instruction> and </instruction>."""
_WRITTEN = re.compile(r"<instruction>(.*?)</instruction>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Failure:
    """A badly paid trajectory, as the judge reads it."""

    reward: float
    step: int
    text: str


class Inspo:
    """A population of instructions; `Adaptive`."""

    def __init__(
        self,
        *,
        group_size: int = 8,
        instructions: tuple[str, ...] = DEFAULT,
        tau: float = 0.1,
        decay: float = 0.9,
        every: int = 50,
        proxy: int = 64,
        failures: int = 8,
    ) -> None:
        """
        instructions: the first population, which keeps its size. tau: temperature of the choice.
        decay: share of a weight that a group's reward leaves. every: steps between prunings. proxy:
        tasks on which a child is compared with its parent; 0 compares none. failures: lowest-paid
        trajectories that the judge is shown.
        """
        if len(instructions) < 2 or not all(text.strip() for text in instructions):
            raise UserError("inspo needs at least two instructions, none of them empty")
        if tau <= 0 or not 0 <= decay < 1 or every < 1 or proxy < 0 or failures < 1:
            raise UserError(
                "inspo needs tau > 0, decay in [0, 1), every and failures of at least 1, proxy of at "
                "least 0"
            )
        self._group_size, self._tau, self._decay = group_size, tau, decay
        self._every, self._proxy, self._n_failures = every, proxy, failures
        self._size = len(instructions)
        self._population = tuple(Instruction(i, text) for i, text in enumerate(instructions))
        self._next = self._size
        self._failures: tuple[Failure, ...] = ()
        self._tasks: tuple[Task, ...] = ()
        self._renewing = asyncio.Lock()

    @property
    def population(self) -> Sequence[Instruction]:
        """Those alive, by number."""
        return self._population

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """`group_size` siblings under one instruction, in sibling order."""
        async with self._renewing:
            if len(self._population) < self._size:
                await self._renew(services, ctx)
        seed = derive(ctx.seed, "inspo", ctx.step, task.id, ctx.repeat)
        mine = chosen(self._population, self._tau, seed)
        siblings = range(self._group_size)
        members = await sampled(task, services, ctx, siblings, instructed(mine.text))
        named = (
            t if t.error is not None else t.scored(**{USED: float(mine.number)}) for t in members
        )
        return Group(task, tuple(named), ctx.step)

    async def _renew(self, services: Services, ctx: Ctx) -> None:
        """Children of the survivors, the best first, until the population is whole again."""
        parents = sorted(self._population, key=lambda m: (-m.weight, m.number))
        children: list[Instruction] = []
        for place in range(self._size - len(parents)):
            parent, other = (parents[i % len(parents)] for i in (place, place + 1))
            seed = derive(ctx.seed, "inspo", ctx.step, "child", place)
            text = await self._written(parent, services.judge)
            text = text or recombined(parent.text, other.text, seed)
            text = await self._better(text, parent.text, services, ctx)
            children.append(Instruction(self._next, text, parent.weight))
            self._next += 1
        self._population = (*self._population, *children)

    async def _written(self, parent: Instruction, judge: Judge | None) -> str | None:
        """The judge's proposal; None without a judge, an answer or an instruction in it."""
        if judge is None or not self._failures:
            return None
        shown = "\n\n".join(f"(reward {f.reward:g})\n{f.text}" for f in self._failures)
        try:
            reply = await judge.grade(ASKED.format(instruction=parent.text, failures=shown))
        except WorldFault:
            return None
        found = _WRITTEN.findall(reply)
        return found[-1].strip() or None if found else None

    async def _better(self, child: str, parent: str, services: Services, ctx: Ctx) -> str:
        """The child, unless it earns less than its parent on the proxy tasks."""
        if not self._tasks or child == parent:
            return parent if child == parent else child
        earned = [await self._proxied(text, services, ctx) for text in (child, parent)]
        return child if earned[0] >= earned[1] else parent

    async def _proxied(self, text: str, services: Services, ctx: Ctx) -> float:
        """Mean environment reward of one episode per remembered task; failed ones left out."""
        opening = instructed(text)
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(services.episodes.run(task, PROXY_SIBLING + i, ctx, opening))
                for i, task in enumerate(self._tasks)
            ]
        earned = [r.rewards["env"] for r in (t.result() for t in running) if r.error is None]
        return fmean(earned) if earned else 0.0

    def observe(self, groups: Sequence[Group], ctx: Ctx) -> None:
        """Credit, remember failures and tasks, and prune when it is due."""
        for group in groups:
            paid = [t for t in group.scored if t.reward is not None and USED in t.rewards]
            if not paid:
                continue
            mean = fmean(t.reward or 0.0 for t in paid)
            number = int(paid[0].rewards[USED])
            self._population = credited(self._population, number, mean, self._decay)
            worst = min(paid, key=lambda t: (t.reward or 0.0, t.sibling))
            text = "\n".join(f"{m.role}: {m.content}" for m in worst.messages if m.role != "system")
            self._failures = (*self._failures, Failure(worst.reward or 0.0, ctx.step, text))
            self._tasks = (*(t for t in self._tasks if t.id != group.task.id), group.task)
        ranked = sorted(self._failures, key=lambda f: (f.reward, -f.step))
        self._failures = tuple(ranked[: self._n_failures])
        self._tasks = self._tasks[-self._proxy :] if self._proxy else ()
        if (ctx.step + 1) % self._every == 0:
            self._population = pruned(self._population)

    def state(self) -> Mapping[str, JsonValue]:
        """The population, the number to give next, failures and proxy tasks."""
        return {
            "population": [asdict(m) for m in self._population],
            "next": self._next,
            "failures": [asdict(f) for f in self._failures],
            "tasks": [task_json(t) for t in self._tasks],
        }

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Go on from `state`."""
        stored = cast(Mapping[str, Any], state)
        self._population = tuple(Instruction(**m) for m in stored["population"])
        self._next = int(stored["next"])
        self._failures = tuple(Failure(**f) for f in stored["failures"])
        self._tasks = tuple(Task(**t) for t in stored["tasks"])


__all__ = ["USED", "Failure", "Inspo"]
