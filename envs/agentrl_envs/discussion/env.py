"""Several agents answer, read each other, revise, and decide together.

The rounds are those of multi-agent debate (arXiv:2305.14325): everybody answers alone, then reads
what all others said in the round before and answers again. A judge that may end the discussion
early and choose who speaks plays the chief agent of Two Heads (arXiv:2504.09772). Neither is trained by
reinforcement in its paper; here all rows of the policy share the reward of the final answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from copy import copy
from random import Random
from typing import Literal, Self, final

from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.errors import UserError
from agentrl.seeds import derive
from agentrl.types import Message, Task
from agentrl_envs.discussion.questions import known_to, parted, read_by, whole
from agentrl_envs.discussion.vote import answer_of, majority
from agentrl_envs.families.base import Split, Style, as_integer
from agentrl_envs.fresh import fresh
from agentrl_envs.horizon.problems import filed, generated
from agentrl_envs.retool_math import shared_checker

JUDGE = "judge"
"""The judge's context, and its role when a partner judges."""

ASK = "\n\nGive your answer inside <answer> and </answer>."
MORE = " Or write CONTINUE, or CONTINUE agent1 agent2 and so on, to have all or some speak again."
MOST = 8
"""Agents in a discussion."""


@final
class Discussion(Env):
    """Several agents answer, read each other, revise, and vote or are judged."""

    def __init__(
        self,
        *,
        agents: int = 3,
        rounds: int = 1,
        frozen: tuple[str, ...] = (),
        decide: Literal["vote", "judge"] = "vote",
        judge: Literal["policy", "partner"] = "policy",
        adaptive: bool = False,
        sees: Literal["all", "part"] = "all",
        shows: Literal["texts", "answers"] | None = None,
        path: str | None = None,
        families: tuple[str, ...] | None = None,
        levels: tuple[int, ...] = (1,),
        style: Style = "plain",
    ) -> None:
        """Make one episode's environment.

        Args:
            agents: how many discuss, from 2 to 8; they are named agent1, agent2, ...
            rounds: how often everybody revises after the first answers.
            frozen: agents that partners of the same names (`rollout.partners`) play; at least one
                is left to the policy.
            decide: the final answer is the `vote` of the last round, or that of a `judge` who has
                read it.
            judge: the `policy` judges, or the `partner` of that role.
            adaptive: the judge reads every round, ends the discussion by answering, and else says who
                speaks in the next one.
            sees: every agent reads `all` of the question, or a `part`: numbers nobody else sees.
            shows: others' whole `texts` without their thinking, or their `answers` alone; None for
                texts in the plain style and answers in the terse.
            path: a jsonl file of problems (GSM8K, MATH, AIME columns); None for generated ones.
            families: generated families to draw from; None for all with whole-number answers.
            levels: their difficulties, of 1, 2 and 3.
            style: `terse` for tiny models, `plain` English otherwise.

        Raises UserError on numbers, names or combinations that cannot be.
        """
        names = tuple(f"agent{i}" for i in range(1, agents + 1))
        _check(agents, rounds, names, frozen)
        if (adaptive or judge == "partner") and decide == "vote":
            raise UserError("env.adaptive and env.judge need env.decide=judge")
        if path is not None and (style == "terse" or sees == "part"):
            raise UserError("env.path needs env.style=plain and env.sees=all")
        self.protocol = "retool_bare" if style == "terse" else "hermes"
        self.names, self.rounds, self.frozen = names, rounds, frozenset(frozen)
        self.order = sorted(range(agents), key=lambda i: (names[i] in self.frozen, i))
        """Who speaks when in a round: the policy's agents first."""
        self.judged, self.adaptive = decide == "judge", adaptive
        self.partner_judges = judge == "partner"
        judges = (JUDGE,) if self.partner_judges else ()
        self.partners = (*sorted(self.frozen), *judges)
        self.sees = sees
        self.style: Style = style
        self.shows = shows or ("answers" if style == "terse" else "texts")
        self.problems = generated(families, levels, style) if path is None else filed(path)
        if not self.partners and (rounds or sees == "all" or decide == "judge"):
            self.expert_floor, self.random_ceiling = 1.0, 0.05
        self._task: Task | None = None
        self._before: tuple[str, ...] = ()
        """What everybody said in the last complete round, by agent."""
        self._said: tuple[tuple[int, str], ...] = ()
        """Who has said what in this round."""
        self._speaking = tuple(self.order)
        """Who speaks in this round; the judge may have chosen some."""
        self._round = 0
        self._judging = False

    @property
    def task(self) -> Task:
        """The task being discussed. Raises RuntimeError before `reset`."""
        if self._task is None:
            raise RuntimeError("reset() the environment before stepping it")
        return self._task

    async def fork(self, n: int) -> list[Self]:
        """Copies: all that changes are immutable values."""
        return [copy(self) for _ in range(n)]

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """The question, for the first agent to speak. No chance in it.

        Raises UserError when the task has no answer, or parts for fewer agents.
        """
        if task.answer is None:
            raise UserError(
                f"task {task.id} has no answer; a discussion needs one to check against"
            )
        read_by(task, len(self.names) - 1)
        self._task, self._before, self._said = task, (), ()
        self._round, self._judging, self._speaking = 0, False, tuple(self.order)
        return (self._question(self.order[0]),)

    def _question(self, agent: int) -> Message:
        asked = read_by(self.task, agent)
        if self.style == "terse":
            return Message("user", asked)
        who = f"You are {self.names[agent]}, one of {len(self.names)} who solve this together."
        return Message("user", f"{who}\n\n{asked}{ASK}")

    async def step(self, action: Action) -> StepResult:
        """What an agent, or the judge, has said."""
        if self._judging:
            return await self._ruled(action.text)
        self._said = (*self._said, (self._speaking[len(self._said)], action.text))
        if len(self._said) < len(self._speaking):
            return self._next()
        now = dict(enumerate(self._before)) | dict(self._said)
        self._before, self._said = tuple(now[i] for i in range(len(self.names))), ()
        last = self._round == self.rounds
        if self.judged and (self.adaptive or last):
            return self._to_judge(last)
        return (
            await self._end(majority([answer_of(t) for t in self._before]))
            if last
            else self._go_on()
        )

    def _go_on(self) -> StepResult:
        self._round += 1
        return self._next()

    def _next(self) -> StepResult:
        """Hand the floor to whoever speaks next, in a context of its own."""
        agent = self._speaking[len(self._said)]
        told = self._question(agent) if not self._round else Message("user", self._heard(agent))
        name = self.names[agent]
        by = name if name in self.frozen else None
        info = StepInfo(context="" if agent == self.order[0] else name, by=by)
        return StepResult((told,), 0.0, False, False, info)

    def _heard(self, agent: int) -> str:
        """The others' words of the round before."""
        others = self._words([i for i in range(len(self.names)) if i != agent])
        if self.style == "terse":
            return others
        return f"The others said:\n\n{others}\n\nThink about it and answer again.{ASK}"

    def _words(self, agents: list[int]) -> str:
        said = {i: self._before[i].rpartition("</think>")[2].strip() for i in agents}
        if self.shows == "answers":
            said = {i: answer_of(text) or "?" for i, text in said.items()}
        if self.style == "terse":
            return "\n".join(f"{i + 1}: {text}" for i, text in said.items())
        return "\n\n".join(f"{self.names[i]}: {text}" for i, text in said.items())

    def _to_judge(self, last: bool) -> StepResult:
        """Let the judge read the round."""
        self._judging = True
        words = self._words(list(range(len(self.names))))
        if self.style == "terse":
            told = words
        else:
            more = "" if last or not self.adaptive else MORE
            told = f"The agents said:\n\n{words}\n\nDecide the final answer.{more}{ASK}"
        first = not self._round or not self.adaptive
        if first:
            shared = str(self.task.metadata.get("question", self.task.question))
            told = f"{shared}\n\n{told}"
        by = JUDGE if self.partner_judges else None
        info = StepInfo(context=JUDGE, by=by)
        return StepResult((Message("user", told),), 0.0, False, False, info)

    async def _ruled(self, text: str) -> StepResult:
        """An answer of the judge ends the discussion, and so does the last round."""
        self._judging = False
        answer = answer_of(text)
        if answer is not None or self._round == self.rounds:
            return await self._end(answer)
        named = {int(number) - 1 for number in re.findall(r"(?:agent|\b)([1-8])\b", text)}
        self._speaking = tuple(i for i in self.order if i in named) or tuple(self.order)
        return self._go_on()

    async def _end(self, answer: str | None) -> StepResult:
        """The reward that all share: 1 when the final answer is right."""
        right = await self._right(answer)
        excluded = "unverified" if right is None else None
        info = StepInfo(answer=answer, excluded=excluded)
        return StepResult((), float(bool(right)), True, False, info)

    async def _right(self, answer: str | None) -> bool | None:
        """None when it could not be decided."""
        if answer is None:
            return False
        gold = str(self.task.answer)
        if as_integer(gold) is not None and "sees" in self.task.metadata:
            return as_integer(gold) == as_integer(answer)
        return (await shared_checker().check(gold, answer)).correct

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """An endless stream. Raises UserError on a split other than train and test."""
        if split != "train" and split != "test":
            raise UserError(f"discussion has the splits train and test, not {split!r}")
        rng = Random(derive("discussion", seed, split))
        return fresh(lambda: self._drawn(rng, split))

    def _drawn(self, rng: Random, split: Split) -> Task:
        if self.sees == "part":
            return parted(rng, split, len(self.names), self.style)
        return whole(self.problems, rng, split)

    def expert(self, task: Task, *, seed: int) -> Iterable[str]:
        """The policy's turns: what each agent can know, then, having heard all, the answer."""
        speakers = [i for i in self.order if self.names[i] not in self.frozen]
        judge = [_turn(str(task.answer))] if self.judged and not self.partner_judges else []
        turns = [_turn(known_to(task, i)) for i in speakers]
        for _ in range(self.rounds):
            turns += ["CONTINUE"] if self.adaptive and judge else []
            turns += [_turn(str(task.answer)) for _ in speakers]
        return tuple(turns + judge)

    def random_turn(self, rng: Random) -> str:
        """Any number as the answer."""
        return _turn(str(rng.randint(0, 999)))


def _turn(answer: str) -> str:
    return f"<answer>{answer}</answer>"


def _check(agents: int, rounds: int, names: tuple[str, ...], frozen: tuple[str, ...]) -> None:
    if not 2 <= agents <= MOST:
        raise UserError(f"env.agents is from 2 to {MOST}, not {agents}")
    if rounds < 0:
        raise UserError(f"env.rounds is at least 0, not {rounds}")
    for name in frozen:
        if name not in names:
            raise UserError(
                f"env.frozen: {name!r} does not discuss; choose among {', '.join(names)}"
            )
    if len(set(frozen)) == agents:
        raise UserError("env.frozen leaves no agent to the policy; leave one out")


__all__ = ["Discussion"]
