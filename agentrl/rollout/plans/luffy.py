"""LUFFY's mixed policy (2504.14945, section 3): one answer of each group is the expert's.

Its tokens are FORCED with probability 1, so their ratio is pi_theta itself; the loss `shaped` lifts the
slope of the unlikely ones. Tools really run under the expert's turns, and its reward is the
environment's.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentrl.episode import Episode
from agentrl.errors import UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.plans.stage import Experts, ExpertTurn, Stage, in_order
from agentrl.seeds import derive
from agentrl.trajectory import Group, Trajectory
from agentrl.types import Task


class Luffy:
    """`group_size` siblings, the last `experts` of them written by the expert."""

    def __init__(
        self, *, group_size: int = 8, experts: int = 1, expert: Experts | None = None
    ) -> None:
        """Make the plan. It goes with the loss `shaped`.

        Args:
            group_size: all siblings.
            experts: how many of them are the expert's; the paper has 1 of 8.
            expert: the environment's.

        Raises UserError when the environment has none or the group no place.
        """
        if expert is None:
            raise UserError(
                "rollout.plan luffy needs an env with an expert; choose one that has it"
            )
        if not 0 < experts <= group_size:
            raise UserError("rollout.plan.experts is at least 1 and at most rollout.group_size")
        self._n, self._first, self._expert = group_size, group_size - experts, expert

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """`group_size` trajectories in sibling order."""
        stage = Stage(task, services, ctx)

        async def one(sibling: int) -> Trajectory:
            if sibling < self._first:
                return await stage.run(sibling)
            seed = derive(ctx.seed, "luffy", ctx.step, task.id, sibling)
            turns = self._expert(task, seed)

            async def play(episode: Episode) -> Trajectory:
                return await shown(episode, turns)

            return await stage.play(sibling, play)

        return Group(task, tuple(await in_order([one(i) for i in range(self._n)])), ctx.step)


async def shown(episode: Episode, turns: Sequence[ExpertTurn]) -> Trajectory:
    """The expert's turns, each placed for certain and answered by the environment."""
    for turn in turns:
        episode.force(turn.token_ids.tolist(), [0.0] * len(turn.token_ids))
        if not await episode.act():
            break
    return episode.finish()


__all__ = ["Luffy", "shown"]
