"""CURE (2508.11016): branch where the model was least sure of a token, not where a tool answered.

Stage 1, section 3.1: each of n1 rollouts names its most uncertain tokens, one of them is drawn, and what
comes before it is written on n2 times. Branches read question and prefix as their prompt: the prefix
is trained once, by its rollout. Stage 2 is plain sampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import numpy as np

from agentrl.chat.base import Renderer
from agentrl.episode import Episode
from agentrl.errors import UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.loop import played_out
from agentrl.rollout.plans.rows import as_context
from agentrl.rollout.plans.sample import Sample
from agentrl.rollout.plans.stage import TRIES, Stage, in_order
from agentrl.trajectory import Group, Trajectory
from agentrl.transcript import Origin, Transcript
from agentrl.types import Task


class Cure:
    """group_size = n1 (1 + branches) siblings: rollouts first, then their branches in their order."""

    def __init__(
        self,
        renderer: Renderer,
        *,
        group_size: int = 16,
        branches: int = 3,
        top: int = 20,
        min_chars: int = 2,
        stage_one: float = 1.0,
    ) -> None:
        """Make the plan.

        Args:
            renderer: tells which ids end a turn and how long a token's text is.
            group_size: all siblings, a multiple of 1 + branches; the paper's 16 are 4 + 12.
            branches: n2, continuations of each rollout's prefix.
            top: how many of the most uncertain tokens the critical one is drawn from.
            min_chars: shorter tokens are not critical; the paper leaves out single characters, a
                byte-level vocabulary has hardly any others.
            stage_one: share of the run's steps that branch; the rest samples plainly.

        Raises UserError on a group that does not divide or a share outside [0, 1].
        """
        if branches < 1 or group_size % (1 + branches):
            raise UserError(
                f"rollout.group_size={group_size} is not n1 (1 + {branches}); CURE needs a multiple of "
                "1 + rollout.plan.branches"
            )
        if top < 1 or not 0 <= stage_one <= 1:
            raise UserError("rollout.plan.top is at least 1 and stage_one a share of the steps")
        self._renderer = renderer
        self._roots = group_size // (1 + branches)
        self._branches, self._top, self._min_chars = branches, top, min_chars
        self._stage_one = stage_one
        self._plain = Sample(group_size=group_size)

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """Always `group_size` trajectories."""
        if ctx.step >= math.ceil(self._stage_one * ctx.total_steps):
            return await self._plain.collect(task, services, ctx)
        stage = Stage(task, services, ctx)
        found = await in_order([self._family(stage, root) for root in range(self._roots)])
        members = [family[0] for family in found]
        members += [branch for family in found for branch in family[1:]]
        return Group(task, tuple(members), ctx.step)

    async def _family(self, stage: Stage, root: int) -> list[Trajectory]:
        """A rollout and its branches; what could not be branched is a rollout of its own."""
        first = self._roots + root * self._branches
        numbers = list(range(first, first + self._branches))
        branches: dict[int, Trajectory] = {}

        async def play(episode: Episode) -> Trajectory:
            played = await _written(episode)
            at = self._critical(episode.row, stage.rng("cure", root))
            if played.error is None and at is not None:
                branches.update(await _branched(episode, numbers, at))
            return played

        played = await stage.play(root, play)
        missing = [n for n in numbers if n not in branches]
        fresh = await in_order([stage.run(n) for n in missing])
        branches |= dict(zip(missing, fresh, strict=True))
        return [played, *(branches[n] for n in numbers)]

    def _critical(self, row: Transcript, rng: Random) -> int | None:
        """Index of the token to write anew; None in a row without a candidate."""
        places = top_entropies(row, self._top, self._admits)
        return rng.choice(places) if places else None

    def _admits(self, token_id: int) -> bool:
        if token_id in self._renderer.stop_ids:
            return False
        return len(self._renderer.tokenizer.decode([token_id]).strip()) >= self._min_chars


def top_entropies(row: Transcript, n: int, admits: Callable[[int], bool]) -> list[int]:
    """Indices of the `n` sampled tokens of highest entropy among those admitted, highest first.

    Ties go to the earlier token.
    """
    ids, entropies = row.token_ids, row.entropies
    sampled = np.flatnonzero(row.origins == int(Origin.MODEL)).tolist()
    fit = [i for i in sampled if admits(int(ids[i]))]
    return sorted(fit, key=lambda i: (-float(entropies[i]), i))[:n]


async def _written(episode: Episode) -> Trajectory:
    """The whole episode, with the entropy of every token."""
    while episode.stop is None:
        if not episode.complete:
            await episode.write(entropies=True)
        if episode.complete:
            await episode.act()
    return episode.finish()


async def _branched(episode: Episode, siblings: Sequence[int], at: int) -> dict[int, Trajectory]:
    """Continuations of the first `at` tokens by sibling; those the world kept failing are absent."""
    found: dict[int, Trajectory] = {}
    for _ in range(TRIES):
        missing = [n for n in siblings if n not in found]
        if not missing:
            break
        live = await episode.fork(missing, at=at)
        for played in await in_order([played_out(branch) for branch in live]):
            if played.error is None:
                found[played.sibling] = _own_part(played, at)
    return found


def _own_part(branch: Trajectory, at: int) -> Trajectory:
    """The branch, with what it shares as context."""
    return replace(branch, rows=(*branch.rows[:-1], as_context(branch.rows[-1], at)))


__all__ = ["Cure", "top_entropies"]
