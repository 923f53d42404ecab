"""CoRT's hints (2506.09820, section 3): words that bring code in, where they are needed.

Prompt-Hint places one sentence at the start of the response. Hint-Engineering waits: when the model
begins to calculate by hand it is told to use code, and when it begins to doubt what code printed it is
told not to. Hints are SCAFFOLD: read, never trained. The paper writes its supervised data this way;
here the same episodes are rollouts.
"""

from __future__ import annotations

from typing import Literal

from agentrl.episode import Episode
from agentrl.errors import UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.plans.stage import Stage, in_order
from agentrl.trajectory import Group, Trajectory
from agentrl.types import Task

OPENING = "I will work through this in steps and let Python do the calculations.\n"
CALCULATION = " This is long by hand; a few lines of Python do it exactly.\n"
DOUBT = " The interpreter calculates exactly, so I can rely on what it printed.\n"
BY_HAND = ("Let me calculate", "let me calculate", "Let me compute", "let me compute", "by hand")
IN_DOUBT = ("Let me verify", "let me verify", "double-check", "double check")


class CortHints:
    """`group_size` siblings, all of them hinted."""

    def __init__(
        self,
        *,
        group_size: int = 8,
        style: Literal["prompt", "engineered"] = "engineered",
        opening: str | None = None,
        by_hand: tuple[str, ...] | None = None,
        calculation: str | None = None,
        in_doubt: tuple[str, ...] | None = None,
        doubt: str | None = None,
        max_hints: int = 3,
        until_called: bool = False,
    ) -> None:
        """Make the plan.

        Args:
            group_size: siblings.
            style: `prompt` places `opening` before the first turn; `engineered` the other two.
            opening: the hint at the start.
            by_hand: texts that begin a calculation by hand; the hint follows at once.
            calculation: that hint.
            in_doubt: texts that doubt a result; they count once a call was answered.
            doubt: that hint.
            max_hints: of each kind in an episode.
            until_called: no hint against calculating by hand once a call was answered.

        Texts that are null are the module's own.

        Raises UserError on a number of hints below 1 or an empty text to wait for.
        """
        by_hand = BY_HAND if by_hand is None else by_hand
        in_doubt = IN_DOUBT if in_doubt is None else in_doubt
        if max_hints < 1 or not all((*by_hand, *in_doubt)):
            raise UserError(
                "rollout.plan.max_hints is at least 1; by_hand and in_doubt hold no empty text"
            )
        self._n, self._style = group_size, style
        self._opening = OPENING if opening is None else opening
        self._calculation = CALCULATION if calculation is None else calculation
        self._doubt = DOUBT if doubt is None else doubt
        self._triggers = {self._calculation: by_hand, self._doubt: in_doubt}
        self._max, self._until_called = max_hints, until_called

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """`group_size` trajectories in sibling order; `hints/placed` counts each one's."""
        stage = Stage(task, services, ctx)
        played = await in_order([stage.play(i, self._play) for i in range(self._n)])
        return Group(task, tuple(played), ctx.step)

    async def _play(self, episode: Episode) -> Trajectory:
        placed: list[str] = []
        if self._style == "prompt":
            episode.place(self._opening)
            placed.append(self._opening)
        while episode.stop is None:
            if not episode.complete:
                hint = await self._write(episode, placed)
                if hint is not None:
                    episode.place(hint)
                    placed.append(hint)
            if episode.complete:
                await episode.act()
        played = episode.finish()
        return played if played.error else played.scored(**{"hints/placed": float(len(placed))})

    async def _write(self, episode: Episode, placed: list[str]) -> str | None:
        """Go on with the turn; the hint that what was written calls for, if it does."""
        waiting = {t: hint for hint in self._active(episode, placed) for t in self._triggers[hint]}
        generation = await episode.write(stop=tuple(waiting))
        if generation is None or episode.complete or episode.stop is not None:
            return None
        return waiting.get(generation.stop_text or "")

    def _active(self, episode: Episode, placed: list[str]) -> list[str]:
        if self._style == "prompt":
            return []
        called = episode.n_calls > 0
        possible = {self._calculation: not (called and self._until_called), self._doubt: called}
        return [h for h, on in possible.items() if on and placed.count(h) < self._max]


__all__ = ["CortHints"]
