"""AdaptThink's sampling (2505.13417, section 3.2): half of a group does not think, the other half must.

Equation 8: the first token is `</think>` with probability 1/2 and a word that opens the thinking with
probability 1/2, whatever the policy would do; all later tokens are the policy's. So both ways stay
explored, and the first token's behaviour probability is the forcing's own.
"""

from __future__ import annotations

import math

from agentrl.chat.base import Renderer
from agentrl.episode import Episode
from agentrl.errors import UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.plans.stage import Stage, in_order, played_within
from agentrl.trajectory import Group, Trajectory
from agentrl.types import Task


class AdaptThink:
    """The first `share` of the siblings answers without thinking, the others think."""

    def __init__(
        self,
        renderer: Renderer,
        *,
        group_size: int = 8,
        share: float = 0.5,
        no_thinking: str = "</think>",
        thinking: str = "Alright",
        no_thinking_tokens: int | None = 4096,
    ) -> None:
        """Make the plan. It goes with the shaper `adaptthink`, advantage `identity` and the loss
        `sequence_ratio`.

        Args:
            renderer: encodes what is forced.
            group_size: siblings.
            share: of the group that is forced not to think; the paper's is 1/2. The declared
                probability is the share that really was, of the group's whole number.
            no_thinking: what such a response starts with.
            thinking: what the others start with. A model whose template does not open `<think>`
                needs it here; one that shows its thinking as tool use starts with the call's tag.
            no_thinking_tokens: budget of tokens under the mask of a response without thinking;
                null for the run's own.

        Raises UserError when a group would not hold both ways or a start has no token.
        """
        self._n_silent = round(share * group_size)
        if not 0 < self._n_silent < group_size:
            raise UserError(
                f"rollout.plan.share={share:g} of {group_size} siblings leaves one way untried; "
                "give a share or a group_size with both"
            )
        if no_thinking_tokens is not None and no_thinking_tokens < 1:
            raise UserError("rollout.plan.no_thinking_tokens is at least 1, or null")
        self._group_size = group_size
        self._cap = no_thinking_tokens
        self._starts = {
            True: _start(renderer, no_thinking, self._n_silent / group_size),
            False: _start(renderer, thinking, 1 - self._n_silent / group_size),
        }

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """`group_size` trajectories, those without thinking first."""
        stage = Stage(task, services, ctx)

        async def play(episode: Episode) -> Trajectory:
            silent = episode.sibling < self._n_silent
            episode.force(*self._starts[silent])
            return await played_within(episode, self._cap if silent else None)

        played = await in_order([stage.play(i, play) for i in range(self._group_size)])
        return Group(task, tuple(played), ctx.step)


def _start(renderer: Renderer, text: str, share: float) -> tuple[list[int], list[float]]:
    """Ids and declared logprobs: the choice falls with the first token, the others follow from it."""
    ids = renderer.demo(text).tolist()
    if not ids:
        raise UserError("rollout.plan.thinking and no_thinking need at least one token each")
    return ids, [math.log(share), *[0.0] * (len(ids) - 1)]


__all__ = ["AdaptThink"]
