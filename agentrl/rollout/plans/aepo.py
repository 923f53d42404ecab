"""AEPO's rollouts (2510.14545, section 4.1): a probe divides the budget, branching in a row costs.

Per task and step one episode is played first. With H_root the entropy of its first turn and H_tool
the mean of those after its tool results,

    m = floor(k sigmoid(beta (H_root - H_tool))) + 1, at most k,

episodes of the k start from the prompt, the probe among them, and k - m places are for branches,
taken by `branch_rules.BalancedRule`. Entropies are means over the first tokens of a turn over ln V,
in [0, 1]; at beta = 0.5 that leaves m between 7 and 10 of 16, a wider range at a larger one. The
released code plays the probe beside the group and is shipped with this switched off.

Every token's entropy is recorded: AEPO's advantage (`agentrl.algo.entropy_aware`) reads them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from agentrl.chat.base import Renderer
from agentrl.episode import Episode
from agentrl.errors import UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.plans.branch_rules import BalancedRule
from agentrl.rollout.plans.branch_tree import Tree, TreeShape
from agentrl.trajectory import Group, Trajectory
from agentrl.types import Task


class Aepo:
    """A probe, then a tree whose number of roots it has chosen."""

    def __init__(
        self,
        *,
        group_size: int = 16,
        sensitivity: float = 0.5,
        initial: int | None = None,
        copies: int = 1,
        alpha: float = 0.5,
        beta: float = 0.2,
        tau: float = 0.5,
        penalty: float = 0.05,
        chance: bool = False,
        first_tokens: int = 20,
        renderer: Renderer | None = None,
    ) -> None:
        """
        sensitivity: beta of the probe. initial: roots, without a probe; None asks it. copies:
        branches made at once. alpha, beta, tau: P = alpha + beta dH > tau, times the penalty's
        factor. penalty: taken off per branching in a row. chance: draw alpha anew from U(0, 1)
        each time, as the released code does. first_tokens: tokens whose entropies are read.
        """
        if sensitivity < 0:
            raise UserError(
                f"rollout.plan.sensitivity is at least 0, not {sensitivity:g}; the code's is 0.5"
            )
        if initial is not None and not 1 <= initial <= group_size:
            raise UserError(
                f"rollout.plan.initial is 1 to rollout.group_size={group_size}, not {initial}"
            )
        rule = BalancedRule(alpha, beta, tau, penalty, chance, first_tokens)
        self._sensitivity, self._initial = sensitivity, initial
        self._shape = TreeShape(group_size, rule, copies, renderer, record=True)

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """`group_size` trajectories in sibling order, the probe first."""
        shape = self._shape
        if self._initial is not None:
            roots = range(self._initial)
            return await Tree(shape, task, services, ctx, roots=roots).group()
        probe = _Probe(shape)
        trajectory = await probe.play(task, services, ctx)
        m = n_roots(shape.size, self._sensitivity, probe.root, probe.tools)
        roots = range(1, min(shape.size, max(m, 2)))  # the probe is over: it cannot branch
        return await Tree(shape, task, services, ctx, roots=roots).group([trajectory])


class _Probe:
    """One episode and the entropies of its turns."""

    def __init__(self, shape: TreeShape) -> None:
        self._shape = shape
        self.root = 0.0
        """Of the first turn."""
        self.tools: list[float] = []
        """Of the turns after a tool result."""

    async def play(self, task: Task, services: Services, ctx: Ctx) -> Trajectory:
        """The episode to its end."""
        async with services.episodes.live(task, 0, ctx) as episode:
            answered = False
            while episode.stop is None:
                answered = await self._turn(episode, answered)
            return episode.finish()

    async def _turn(self, episode: Episode, answered: bool) -> bool:
        """Write and act; whether a tool answered. `answered`: one had before this turn."""
        first = episode.n_turns == 0
        generation = await episode.write(entropies=True)
        if generation is None:
            return False
        h = self._shape.entropy(generation)
        if first:
            self.root = h
        elif answered:
            self.tools.append(h)
        calls = episode.n_calls
        if episode.complete:
            await episode.act()
        return episode.n_calls > calls


def n_roots(size: int, sensitivity: float, root: float, tools: Sequence[float]) -> int:
    """m of the module's formula; without a tool result the entropies count as equal."""
    gap = root - fmean(tools) if tools else 0.0
    return min(size, math.floor(size / (1 + math.exp(-sensitivity * gap))) + 1)


__all__ = ["Aepo", "n_roots"]
