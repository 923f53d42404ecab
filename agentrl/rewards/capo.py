"""CAPO (2508.02298): credit for tokens, from a judge that names the wrong steps.

Several critiques list the wrong steps of the reasoning; a step is wrong when all (or most, or any) of
them say so. Token reward = C correct on all tokens, minus P on the tokens of wrong steps, C = 2 > P = 1:
right and clean 2, right but flawed 1, wrong but clean 0, wrong and flawed -1. C correct is the
scalar reward; the minus is earned at the tokens. Steps are separated by blank lines.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple, final

import numpy as np

from agentrl.chat.base import Tokenizer
from agentrl.errors import UserError, WorldFault
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Need, Services, Shaped
from agentrl.rewards.asking import ask, check_asking, judge_of
from agentrl.rewards.base import COMPONENT, CORRECT, added, column, correct, spent, with_tokens
from agentrl.rewards.texts import char_ends, runs
from agentrl.trajectory import Group, Trajectory
from agentrl.transcript import Float32Array, floats_array

STEPS = "capo/steps"
WRONG = "capo/wrong"

Vote = Literal["intersection", "majority", "union"]

_BLANK = re.compile(r"\n\s*\n")
_LIST = re.compile(r"\[[\d,\s]*\]")


class Step(NamedTuple):
    """One paragraph of the policy's text."""

    text: str
    tokens: slice
    """Of the trajectory's joined rows; a token belongs to the step of its last character."""


def steps_of(trajectory: Trajectory, tokenizer: Tokenizer) -> list[Step]:
    """The policy's text cut at blank lines, turn by turn; blank pieces belong to the step before."""
    found: list[Step] = []
    for run in runs(trajectory):
        text = tokenizer.decode(run.token_ids)
        ends = char_ends(tokenizer, run.token_ids)
        for start, end in _spans(text):
            low = int(np.searchsorted(ends, start, side="right"))
            high = int(np.searchsorted(ends, end, side="right"))
            if high > low:
                tokens = slice(run.offset + low, run.offset + high)
                found.append(Step(text[start:end].strip(), tokens))
    return found


def _spans(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for blank in _BLANK.finditer(text):
        if text[start : blank.start()].strip():
            yield start, blank.end()
            start = blank.end()
    if text[start:].strip():
        yield start, len(text)


def wrong_steps(critiques: Sequence[Sequence[int]], n_steps: int, vote: Vote) -> list[int]:
    """Indices that enough critiques call wrong; indices that do not exist are ignored."""
    votes = Counter(index for critique in critiques for index in set(critique))
    least = {"intersection": len(critiques), "majority": len(critiques) // 2 + 1, "union": 1}[vote]
    return [index for index in range(n_steps) if critiques and votes[index] >= least]


@final
class CapoJudge:
    """Reward function: `capo/steps` and `capo/wrong/<k>` for each wrong step, measurements."""

    needs: ClassVar[frozenset[Need]] = frozenset({"judge"})

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        critiques: int = 4,
        vote: Vote = "intersection",
        tries: int = 2,
        deadline_s: float = 300.0,
    ) -> None:
        """Ask for `critiques` critiques of every trajectory."""
        check_asking("capo_judge", tries, deadline_s)
        if critiques < 1:
            raise UserError(f"capo_judge.critiques is at least 1, not {critiques}")
        self._tokenizer, self._critiques = tokenizer, critiques
        self._vote: Vote = vote
        self._tries, self._deadline_s = tries, deadline_s

    async def __call__(self, trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        """Raises WorldFault when a critique cannot be had."""
        judge_of(services)
        steps = steps_of(trajectory, self._tokenizer)
        if not steps:
            return {STEPS: 0.0}
        listed = "\n\n".join(f"Step {k}:\n{step.text}" for k, step in enumerate(steps))
        prompt = (
            "Which steps of this solution are wrong? A step is wrong when it states or computes "
            "something false, whatever came before. Reply with their numbers as a list such as "
            f"[0, 3], or [] when none is.\n\nQuestion:\n{trajectory.task.question}\n\n{listed}"
        )
        async with asyncio.TaskGroup() as asking:
            asked = [
                asking.create_task(self._ask(services, f"{prompt}\n\n(Critique {k + 1})"))
                for k in range(self._critiques)
            ]
        critiques = [task.result() for task in asked]
        given = [critique for critique in critiques if not isinstance(critique, WorldFault)]
        if len(given) < len(critiques):
            raise WorldFault(
                f"{len(critiques) - len(given)} of {len(critiques)} critiques were lost"
            )
        wrong = wrong_steps(given, len(steps), self._vote)
        return {STEPS: float(len(steps)), **{f"{WRONG}/{k}": 1.0 for k in wrong}}

    async def _ask(self, services: Services, prompt: str) -> list[int] | WorldFault:
        """The critique, or the fault as a value: a TaskGroup would wrap what is raised."""
        try:
            return await ask(
                services, prompt, read_list, tries=self._tries, deadline_s=self._deadline_s
            )
        except WorldFault as fault:
            return fault


def read_list(reply: str) -> list[int] | None:
    """The last list of numbers in brackets; None without one."""
    found = _LIST.findall(reply)
    return [int(number) for number in re.findall(r"\d+", found[-1])] if found else None


@final
class CapoTokens:
    """Shaper: replaces the component by C correct and takes P from every token of a wrong step."""

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        outcome: float = 2.0,
        penalty: float = 1.0,
        component: str = COMPONENT,
        above: float = CORRECT,
    ) -> None:
        """`outcome` is C and `penalty` P; C > P keeps a flawed right answer above a clean wrong one.

        Raises UserError when it is not.
        """
        if not outcome > penalty >= 0:
            raise UserError(f"capo_tokens needs outcome > penalty >= 0, not {outcome}, {penalty}")
        self._tokenizer, self._outcome, self._penalty = tokenizer, outcome, penalty
        self._component, self._above = component, above

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Raises UserError when no critique was recorded."""
        column(group, STEPS, "capo_tokens")
        changes = [
            self._outcome * correct(t, self._component, self._above) - spent(t, self._component)
            for t in group.trajectories
        ]
        placed = [self._placed(t) for t in group.trajectories]
        return with_tokens(group, added(shaped, changes), placed)

    def _placed(self, trajectory: Trajectory) -> Float32Array:
        rewards = np.zeros(trajectory.n_tokens)
        for index, step in enumerate(steps_of(trajectory, self._tokenizer)):
            if trajectory.rewards.get(f"{WRONG}/{index}"):
                rewards[step.tokens] -= self._penalty
        return floats_array(rewards)


__all__ = [
    "STEPS",
    "WRONG",
    "CapoJudge",
    "CapoTokens",
    "Step",
    "Vote",
    "read_list",
    "steps_of",
    "wrong_steps",
]
