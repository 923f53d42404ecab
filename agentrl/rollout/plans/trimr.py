"""A stream watcher in the manner of TrimR (2505.17155): thoughts that go round in circles are closed.

A turn is written in pieces of `every` tokens. After each the text so far is checked: does it loop, have
its last thoughts arrived at the same result, and, if asked for, does the run's judge find it done? At
the first yes the closing text is put behind it (SCAFFOLD: mask 0, no ratio) and the policy goes on
from there unwatched to the end of its turn. Measurements: `trimr/cuts` turns closed, and for each rule
`trimr/loop`, `trimr/again`, `trimr/judge`.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, Literal

from agentrl.episode import Episode
from agentrl.errors import UserError, WorldFault
from agentrl.points import Ctx, Judge, Need, Services
from agentrl.rollout.plans.siblings import side_by_side
from agentrl.rollout.plans.watch_rules import looping, reconsidered
from agentrl.trajectory import Group, Trajectory
from agentrl.types import Task

Rule = Literal["loop", "again", "judge"]
RULES: Final[tuple[Rule, ...]] = ("loop", "again", "judge")
ASKED = (
    "Below is the beginning of somebody's reasoning. Has it reached an answer that it now only repeats or "
    "checks again? Reply with yes or no.\n\n{text}"
)


class Watched:
    """Independent siblings whose turns are watched while they are written."""

    def __init__(
        self,
        *,
        group_size: int = 8,
        every: int = 64,
        repeats: int = 4,
        min_chars: int = 48,
        agree: int = 3,
        judge: bool = False,
        closing: str = "\nThat is settled.\n</think>\n",
    ) -> None:
        """
        every: tokens between two checks. repeats, min_chars: how often a unit stands at the end, and
        how long that is in all, for a loop. agree: thoughts in a row with one result that make the
        next one needless. judge: ask the run's judge as well, after every piece. closing: what ends
        the thought.
        """
        if every < 1 or repeats < 2 or agree < 2 or not closing:
            raise UserError(
                "trimr needs every of at least 1, repeats and agree of at least 2, and a closing"
            )
        self._group_size, self._every, self._closing = group_size, every, closing
        self._repeats, self._min_chars, self._agree = repeats, min_chars, agree
        self._judge = judge
        self.needs: frozenset[Need] = frozenset({"judge"}) if judge else frozenset()

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """`group_size` watched episodes in sibling order."""
        if self._judge and services.judge is None:
            raise UserError(
                "rollout.plan.judge=true asks a judge and there is none; set algo.judge={name: "
                "openai, base_url: ..., model: ...}"
            )

        async def play(sibling: int) -> Trajectory:
            async with services.episodes.live(task, sibling, ctx) as episode:
                return await self._watched(episode, services.judge if self._judge else None)

        return Group(task, await side_by_side(range(self._group_size), play), ctx.step)

    async def _watched(self, episode: Episode, judge: Judge | None) -> Trajectory:
        cuts: Counter[Rule] = Counter()
        closed = False
        while episode.stop is None:
            await episode.write(max_tokens=None if closed else self._every)
            if episode.complete:
                await episode.act()
                closed = False
            elif episode.stop is None and not closed:
                rule = await self._broken(episode.text, judge)
                if rule is not None:
                    cuts[rule] += 1
                    episode.place(self._closing)
                    closed = True
        trajectory = episode.finish()
        if trajectory.error is not None:
            return trajectory
        found = {f"trimr/{rule}": float(cuts[rule]) for rule in RULES}
        return trajectory.scored(**{"trimr/cuts": float(cuts.total())}, **found)

    async def _broken(self, text: str, judge: Judge | None) -> Rule | None:
        """The first rule that says stop; a judge that cannot be had says nothing."""
        if looping(text, self._repeats, self._min_chars):
            return "loop"
        if reconsidered(text, self._agree):
            return "again"
        if judge is not None:
            try:
                reply = await judge.grade(ASKED.format(text=text))
            except WorldFault:
                return None
            return "judge" if reply.strip().lower().startswith("yes") else None
        return None


__all__ = ["Watched"]
