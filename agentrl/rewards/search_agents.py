"""Rewards of three tool agents that mix outcome and format: Search-R1, ARPO, CoRT."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from agentrl.history import HistoryStore
from agentrl.points import Ctx, Shaped
from agentrl.rewards.answer_match import golds, response_answer
from agentrl.rewards.base import COMPONENT, CORRECT, added, column, correct, spent
from agentrl.rewards.formats import follows
from agentrl.rewards.texts import response_messages
from agentrl.trajectory import CallRecord, Group, Trajectory
from agentrl.verify.text_answer import contains_match

_ERROR = re.compile(r"\w*Error\b|Traceback")
NOT_EXECUTED = ("parse", "unknown_tool", "arguments")
"""Faults of calls that never reached a tool."""
_NOTHING = frozenset({"", "Done", "[]"})


@dataclass(frozen=True, slots=True)
class SearchR1:
    """Search-R1 (2503.09516), the v0.3 table of outcome and structure; replaces the component.

    right, valid 1; right, invalid 1 - structure; else valid: structure (+ retrieval when something
    found holds a gold answer); wrong, invalid: final; no answer, invalid: 0. All three at 0 are
    the paper's plain exact match.
    """

    structure: float = 0.2
    final: float = 0.1
    retrieval: float = 0.0
    component: str = COMPONENT
    above: float = CORRECT

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Remembers nothing."""
        changes = [self.reward(t) - spent(t, self.component) for t in group.trajectories]
        return added(shaped, changes)

    def reward(self, trajectory: Trajectory) -> float:
        """The table's entry."""
        valid = follows(trajectory, "search_r1")
        if correct(trajectory, self.component, self.above):
            return 1.0 if valid else 1 - self.structure
        if valid:
            found = self.retrieval and _retrieved(trajectory)
            return self.structure + (self.retrieval if found else 0.0)
        return 0.0 if response_answer(trajectory) is None else self.final


def _retrieved(trajectory: Trajectory) -> bool:
    observed = (m.content for m in response_messages(trajectory) if m.role != "assistant")
    wanted = golds(trajectory.task)
    return any(contains_match(text, wanted) for text in observed)


@dataclass(frozen=True, slots=True)
class Arpo:
    """ARPO's reward (2507.19849): -1 for a broken format, else acc, + 0.1 when every tool was used.

    The bonus needs acc > 0 and an executed call of each tool. Replaces the component.
    """

    bonus: float = 0.1
    fail: float = -1.0
    tools: tuple[str, ...] = ("search", "python")
    """Names of the tools that must all have been called."""
    component: str = COMPONENT
    """acc in [0, 1]: token F1 or a verifier's verdict."""

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Remembers nothing."""
        changes = [self.reward(t) - spent(t, self.component) for t in group.trajectories]
        return added(shaped, changes)

    def reward(self, trajectory: Trajectory) -> float:
        """The reward of one trajectory."""
        if not follows(trajectory, "arpo"):
            return self.fail
        acc = trajectory.rewards.get(self.component, 0.0)
        used = {call.name for call in trajectory.calls if call.error not in NOT_EXECUTED}
        return acc + (self.bonus if acc > 0 and used >= set(self.tools) else 0.0)


def useless(call: CallRecord) -> bool:
    """Whether an output is an error, empty, "Done" or "[]"."""
    said = call.content.strip()
    return call.error is not None or said in _NOTHING or _ERROR.search(said) is not None


def all_useless(calls: Iterable[CallRecord], *, none_counts: bool = False) -> bool:
    """Whether code was run and never gave anything.

    `none_counts` is CoRT's code, where all() of no output is true: a trajectory without code
    is punished too.
    """
    verdicts = [useless(call) for call in calls]
    return all(verdicts) and (bool(verdicts) or none_counts)


@dataclass(frozen=True, slots=True)
class Cort:
    """CoRT (2506.09820): minus 0.1 when no piece of code gave anything; plus an optional judge.

    The judge's grade 0, 1, 2 is worth -0.1, 0, +0.1.
    """

    penalty: float = 0.1
    no_code_counts: bool = False
    """The released code's `all([])`: answers without code are punished too."""
    judge: str | None = None
    """Component with the judge's grade; null for none."""

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Raises UserError when the judge's grade is wanted and was not recorded."""
        if self.judge is not None:
            column(group, self.judge, "cort")
        return added(shaped, [self._change(t) for t in group.trajectories])

    def _change(self, trajectory: Trajectory) -> float:
        bad = all_useless(trajectory.calls, none_counts=self.no_code_counts)
        change = -self.penalty if bad else 0.0
        if self.judge is None:
            return change
        grade = trajectory.rewards[self.judge]
        return change + self.penalty * (grade - 1) - spent(trajectory, self.judge)


__all__ = [
    "Arpo",
    "Cort",
    "SearchR1",
    "all_useless",
    "useless",
]
