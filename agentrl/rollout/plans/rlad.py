"""RLAD (2510.02263): one role proposes a short abstraction of the problem, another solves with it.

A step trains one role. `abstraction`: `group_size` abstractions of the task, each paid (component
`abstraction`) the mean accuracy of `solutions` solvers that read it. `solver`: one abstraction, and
`group_size` solvers, of which the first read it and a share `bare` does not; a bare one earns 0 however
right it is, so gains come through the abstraction. Its group of its own would be all zeros, so it
trains nothing here and stands aside from the others' statistics (`no_abstraction`).

An abstraction that tells the answer is worth nothing: with one right answer in `leak_samples` from a
reader of it alone, without the problem, it `leaks` and is neither trained nor counted.

Roles that the step does not train are played by `rollout.partners.<role>` (`abstraction`, `solver`;
the reader is `reader`), else by the policy, untrained. Their episodes are not part of the group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import ClassVar, Final, Literal, NamedTuple

from agentrl.episode import Opening
from agentrl.errors import UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.plans.roles import ALTERNATE, partner_of, refuse_partner, trained_role
from agentrl.rollout.plans.siblings import appended, played_again, sampled, side_by_side, written_by
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.types import Message, Task

ROLES: Final = ("abstraction", "solver")
ASKED = (
    "Do not solve this. Write one short piece of advice (a lemma, a technique, a pitfall) that helps "
    "somebody else to solve it, without its answer."
)
HINT = "Advice: {abstraction}"
HELPERS = 1 << 20
"""First sibling number of episodes that are no members, far from any member's."""


class Proposal(NamedTuple):
    """An abstraction and how it was written."""

    text: str
    trajectory: Trajectory


class Rlad:
    """Abstractions and solutions of one task, one of the two trained."""

    roles: ClassVar = frozenset((*ROLES, "reader"))

    def __init__(
        self,
        *,
        group_size: int = 8,
        trained: Literal["abstraction", "solver", "alternate"] = "alternate",
        solutions: int = 4,
        leak_samples: int = 16,
        bare: float = 0.5,
        abstraction_tokens: int = 256,
        ask: str = ASKED,
        hint: str = HINT,
    ) -> None:
        """
        trained: the role; `alternate` trains abstractions on even steps, solvers on odd ones.
        solutions: solvers that an abstraction is judged by. leak_samples: readers that try to answer
        from the abstraction alone; 0 trusts it. bare: share of solvers without one. ask: behind the
        task, what an abstraction is asked for with. hint: behind the task, how it is shown.
        """
        if "{abstraction}" not in hint or not ask:
            raise UserError("rlad.hint holds {abstraction}, and rlad.ask is not empty")
        if solutions < 1 or leak_samples < 0 or not 0 <= bare < 1 or abstraction_tokens < 1:
            raise UserError(
                "rlad needs solutions and abstraction_tokens of at least 1, leak_samples of at least "
                "0 and bare in [0, 1)"
            )
        self._group_size, self._trained = group_size, trained
        self._solutions, self._leak_samples = solutions, leak_samples
        self._n_bare, self._tokens = int(bare * group_size), abstraction_tokens
        self._ask, self._hint = ask, hint

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """`group_size` members of the trained role, in sibling order."""
        if self._trained != ALTERNATE:
            refuse_partner(self._trained, services, self._trained)
        partners = {role: partner_of(role, services, self._trained) for role in ROLES}
        partners["reader"] = partner_of("reader", services, "")
        one = _Exchange(self, task, services, ctx, partners)
        if trained_role(self._trained, ROLES, ctx.step) == "abstraction":
            return Group(task, await one.abstractions(), ctx.step)
        return Group(task, await one.solutions(), ctx.step)

    @property
    def options(self) -> _Options:
        """What one task's exchange needs to know."""
        sizes = (self._group_size, self._n_bare, self._solutions, self._leak_samples, self._tokens)
        return _Options(*sizes, appended(self._ask), self._hint)


class _Options(NamedTuple):
    members: int
    bare: int
    solutions: int
    readers: int
    tokens: int
    ask: Opening
    hint: str


class _Exchange:
    """One task's step."""

    def __init__(
        self, plan: Rlad, task: Task, services: Services, ctx: Ctx, partners: dict[str, str]
    ) -> None:
        self._task, self._services, self._ctx, self._partners = task, services, ctx, partners
        self._of = plan.options

    async def abstractions(self) -> tuple[Trajectory, ...]:
        """The proposals, paid by what solvers make of them."""
        proposals: dict[int, str] = {}

        async def play(sibling: int) -> Trajectory:
            proposal = await self._proposed(sibling, None)
            proposals[sibling] = proposal.text
            return proposal.trajectory

        members = await side_by_side(range(self._of.members), play)
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(self._paid(t, proposals[t.sibling])) for t in members]
        return tuple(task.result() for task in running)

    async def solutions(self) -> tuple[Trajectory, ...]:
        """Solvers under one abstraction that does not leak, and bare ones behind them."""
        found: list[str] = []

        async def play(sibling: int) -> Trajectory:
            proposal = await self._proposed(sibling, self._partners["abstraction"])
            found.append(proposal.text)
            return proposal.trajectory

        helper = await played_again(play, HELPERS)
        text = "" if helper.error is not None else found[-1]
        if text and await self._leaks(text, HELPERS + 1):
            text = ""
        n_bare = self._of.bare if text else self._of.members
        task, services, ctx = self._task, self._services, self._ctx
        hint = self._shown(text)
        with_it = await sampled(task, services, ctx, range(self._of.members - n_bare), hint)
        bare = await sampled(
            task, services, ctx, range(self._of.members - n_bare, self._of.members)
        )
        return (*with_it, *map(unpaid, bare))

    async def _proposed(self, sibling: int, by: str | None) -> Proposal:
        """One abstraction; nothing is asked of the environment."""
        opening = appended(ASKED)
        async with self._services.episodes.live(self._task, sibling, self._ctx, opening) as episode:
            await episode.write(max_tokens=self._of.tokens, by=by)
            text = episode.text.strip()
            return Proposal(text, episode.finish(StopReason.TERMINATED))

    async def _paid(self, trajectory: Trajectory, text: str) -> Trajectory:
        if trajectory.error is not None:
            return trajectory
        first = HELPERS + trajectory.sibling * (self._of.solutions + self._of.readers)
        if not text:
            return replace(trajectory, rewards={"env": 0.0, "abstraction": 0.0})
        if await self._leaks(text, first + self._of.solutions):
            return replace(trajectory, rewards={"env": 0.0, "abstraction": 0.0}, excluded="leaks")
        siblings = range(first, first + self._of.solutions)
        solved = await self._by("solver", siblings, self._shown(text))
        if not solved:
            lost = "every solver of the abstraction failed"
            return replace(trajectory, rewards={}, stop=StopReason.ERROR, error=lost)
        return replace(trajectory, rewards={"env": 0.0, "abstraction": fmean(solved)})

    def _shown(self, text: str) -> Opening:
        return appended(self._of.hint.replace("{abstraction}", text))

    async def _leaks(self, text: str, first: int) -> bool:
        """Whether a reader of the abstraction alone answers right."""
        alone = Opening(lambda messages: (*messages[:-1], Message("user", text)))
        return any(await self._by("reader", range(first, first + self._of.readers), alone))

    async def _by(self, role: str, siblings: Sequence[int], opening: Opening) -> list[float]:
        """Right or wrong of each episode that this role plays; failed ones left out."""

        async def play(sibling: int) -> Trajectory:
            live = self._services.episodes.live(self._task, sibling, self._ctx, opening)
            async with live as episode:
                return await written_by(episode, self._partners[role])

        played = await side_by_side(siblings, play)
        return [float(t.correct) for t in played if t.error is None]


def unpaid(trajectory: Trajectory) -> Trajectory:
    """A solver without an abstraction: reward 0, right or wrong."""
    if trajectory.error is not None:
        return trajectory
    rewards = {"env": 0.0, "rlad/bare": trajectory.rewards["env"]}
    return replace(trajectory, rewards=rewards, excluded=trajectory.excluded or "no_abstraction")


__all__ = ["Rlad", "unpaid"]
