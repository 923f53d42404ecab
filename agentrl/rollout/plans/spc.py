"""SPC (2504.19162): a sneaky generator plants an error in a step, a critic judges steps; zero-sum.

The task is first solved (`attempts` samples; an unsolved one has nothing to judge and is `unsolved`).
One step of the first right solution is chosen by seed. Then the step's role is trained:

critic: half of the group judges the step as a sneaky partner rewrote it, the other half as it was. A
  member wins when its `<Answer>Correct|Incorrect</Answer>` says what is so; no verdict loses.
sneaky: every member rewrites the step. A rewriting counts when it breaks the solution: going on from
  it succeeds less often, by `drop`, than going on from the step as it was; others are `harmless` and
  neither trained nor counted. A member wins when a critic does not find the error.

`env` of a member is 1 when it won, else 0 (the environment itself is not asked), so one side's loss is
the other's win; with shaper `outcome` and `wrong: -1` the rewards are +1 and -1. Measurements:
`spc/caught` of critics shown an error, `spc/cleared` of the others, 1 or 0 each. Roles that are not
trained, and the `solver`, are partners of their names, else the policy, untrained; their episodes are
no members of the group.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Final, Literal

from agentrl.episode import Opening
from agentrl.errors import UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.plans.roles import ALTERNATE, partner_of, refuse_partner, trained_role
from agentrl.rollout.plans.siblings import side_by_side, written_by
from agentrl.seeds import derive
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.types import Message, Task

ROLES: Final = ("critic", "sneaky")
HELPERS = 1 << 20
"""First sibling number of episodes that are no members."""
SNEAK = (
    "Problem:\n{problem}\n\nA correct solution so far:\n{before}\n\nIts next step:\n{step}\n\nRewrite that "
    "step so that it holds one error that is hard to see and spoils the solution. Reply with the step only."
)
JUDGE = (
    "Problem:\n{problem}\n\nA solution so far, correct:\n{before}\n\nIts next step:\n{step}\n\nIs that "
    "step correct? Think, then reply <Answer>Correct</Answer> or <Answer>Incorrect</Answer>."
)
_VERDICT = re.compile(r"<answer>\s*(correct|incorrect)\s*</answer>", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def verdict(text: str) -> bool | None:
    """The last verdict: True for correct; None when there is none."""
    found = _VERDICT.findall(text)
    return None if not found else found[-1].lower() == "correct"


def steps_of(solution: str) -> Sequence[str]:
    """Its lines; of a single line its sentences. Joined again they are the solution."""
    lines = [line for line in re.split(r"(?<=\n)", solution) if line]
    if len(lines) > 1:
        return lines
    cuts = [0, *(m.end() for m in _SENTENCE.finditer(solution)), len(solution)]
    return [solution[a:b] for a, b in pairwise(cuts) if a < b]


@dataclass(frozen=True, slots=True)
class Puzzle:
    """A step of a right solution."""

    before: str
    step: str


class Spc:
    """Critics, or sneaky generators, of one step of one solved task."""

    roles: ClassVar = frozenset((*ROLES, "solver"))

    def __init__(
        self,
        *,
        group_size: int = 8,
        trained: Literal["critic", "sneaky", "alternate"] = "alternate",
        attempts: int = 4,
        completions: int = 4,
        drop: float = 0.5,
        role_tokens: int = 256,
    ) -> None:
        """
        trained: the role; `alternate` trains critics on even steps, sneaky generators on odd ones.
        attempts: at solving the task. completions: from a step, to see what it is worth. drop: by
        which their accuracy must fall. role_tokens: of a rewriting or a verdict.
        """
        if attempts < 1 or completions < 1 or not 0 < drop <= 1 or role_tokens < 1:
            raise UserError(
                "spc needs attempts, completions and role_tokens of at least 1 and drop in (0, 1]"
            )
        self._group_size, self._trained, self._attempts = group_size, trained, attempts
        self._completions, self._drop, self._tokens = completions, drop, role_tokens

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """`group_size` members of the trained role, in sibling order; attempts when none solved it."""
        if self._trained != ALTERNATE:
            refuse_partner(self._trained, services, self._trained)
        partners = {role: partner_of(role, services, self._trained) for role in ROLES}
        partners["solver"] = partner_of("solver", services, "")
        game = _Game(task, services, ctx, partners, self._tokens)
        tried = await game.played("solver", range(HELPERS, HELPERS + self._attempts))
        solved = next((t for t in tried if t.correct), None)
        if solved is None:
            aside = (t if t.error else replace(t, excluded="unsolved") for t in tried)
            return Group(task, tuple(aside), ctx.step)
        puzzle = _puzzle(solved, ctx)
        if trained_role(self._trained, ROLES, ctx.step) == "critic":
            return Group(task, await self._critics(game, puzzle), ctx.step)
        return Group(task, await self._sneaks(game, puzzle), ctx.step)

    async def _critics(self, game: _Game, puzzle: Puzzle) -> tuple[Trajectory, ...]:
        first = HELPERS + self._attempts
        (sneak,), (text,) = await game.asked([first], SNEAK, [puzzle], game.partners["sneaky"])
        wrong = replace(puzzle, step=text)
        breaks = sneak.error is None and await self._breaks(game, puzzle, wrong, first + 1)
        n_wrong = self._group_size // 2 if breaks else 0
        shown = [wrong] * n_wrong + [puzzle] * (self._group_size - n_wrong)
        members, texts = await game.asked(range(self._group_size), JUDGE, shown, None)
        return tuple(
            _won(
                t, verdict(said) is (i >= n_wrong), "spc/cleared" if i >= n_wrong else "spc/caught"
            )
            for i, (t, said) in enumerate(zip(members, texts, strict=True))
        )

    async def _sneaks(self, game: _Game, puzzle: Puzzle) -> tuple[Trajectory, ...]:
        n, first = self._group_size, HELPERS + self._attempts
        members, texts = await game.asked(range(n), SNEAK, [puzzle] * n, None)

        async def paid(member: Trajectory, text: str) -> Trajectory:
            if member.error is not None:
                return member
            wrong = replace(puzzle, step=text)
            own = first + member.sibling * (2 * self._completions + 1)
            if not await self._breaks(game, puzzle, wrong, own):
                return replace(_won(member, False), excluded="harmless")
            number, critic = own + 2 * self._completions, game.partners["critic"]
            (judged,), (said,) = await game.asked([number], JUDGE, [wrong], critic)
            caught = judged.error is None and verdict(said) is False
            return _won(member, not caught)

        async with asyncio.TaskGroup() as group:
            pairs = zip(members, texts, strict=True)
            running = [group.create_task(paid(member, text)) for member, text in pairs]
        return tuple(task.result() for task in running)

    async def _breaks(self, game: _Game, puzzle: Puzzle, wrong: Puzzle, first: int) -> bool:
        """Whether going on from the rewritten step succeeds less often, by `drop`."""
        if not wrong.step.strip() or wrong.step.strip() == puzzle.step.strip():
            return False
        n = self._completions
        right = await game.worth(puzzle, range(first, first + n))
        after = await game.worth(wrong, range(first + n, first + 2 * n))
        return right - after >= self._drop


class _Game:
    """One task's episodes, by role."""

    def __init__(
        self, task: Task, services: Services, ctx: Ctx, partners: dict[str, str], tokens: int
    ) -> None:
        self._task, self._services, self._ctx, self._tokens = task, services, ctx, tokens
        self.partners = partners

    async def played(
        self, role: str, siblings: Sequence[int], start: str = ""
    ) -> tuple[Trajectory, ...]:
        """Whole episodes of the task by a partner, going on from `start`."""

        async def play(sibling: int) -> Trajectory:
            async with self._services.episodes.live(self._task, sibling, self._ctx) as episode:
                if start:
                    episode.place(start)
                return await written_by(episode, self.partners[role])

        return await side_by_side(siblings, play)

    async def worth(self, puzzle: Puzzle, siblings: Sequence[int]) -> float:
        """Share of right answers going on behind the step; failed ones left out."""
        start = puzzle.before + puzzle.step
        done = [t for t in await self.played("solver", siblings, start) if t.error is None]
        return sum(t.correct for t in done) / max(1, len(done))

    async def asked(
        self, siblings: Sequence[int], prompt: str, puzzles: Sequence[Puzzle], by: str | None
    ) -> tuple[tuple[Trajectory, ...], list[str]]:
        """One answer each to a prompt that stands in the task's place, and its text."""
        texts: dict[int, str] = {}
        shown = dict(zip(siblings, puzzles, strict=True))

        async def play(sibling: int) -> Trajectory:
            puzzle = shown[sibling]
            asked = prompt.format(
                problem=self._task.question, before=puzzle.before, step=puzzle.step
            )
            opening = Opening(lambda messages: (*messages[:-1], Message("user", asked)))
            live = self._services.episodes.live(self._task, sibling, self._ctx, opening)
            async with live as episode:
                await episode.write(max_tokens=self._tokens, by=by)
                texts[sibling] = episode.text
                return episode.finish(StopReason.TERMINATED)

        members = await side_by_side(siblings, play)
        return members, [texts[sibling] for sibling in siblings]


def _puzzle(solved: Trajectory, ctx: Ctx) -> Puzzle:
    """A step of the solution, tools' answers among its text, chosen by seed."""
    written = (m.content for m in solved.messages if m.role in ("assistant", "tool"))
    steps = steps_of("\n".join(written))
    k = derive(ctx.seed, "spc", ctx.step, solved.task.id, ctx.repeat) % len(steps)
    return Puzzle("".join(steps[:k]), steps[k])


def _won(trajectory: Trajectory, won: bool, measured: str | None = None) -> Trajectory:
    if trajectory.error is not None:
        return trajectory
    found = {} if measured is None else {measured: float(won)}
    return replace(trajectory, rewards={"env": float(won), **found})


__all__ = ["Puzzle", "Spc", "steps_of", "verdict"]
