"""RL of Thoughts (arXiv:2505.14140): a navigator picks the logic block that a frozen solver runs.

The policy is the navigator. It reads seven self-evaluated scores and names one of five blocks; the
solver, a partner in a context of its own or the small scripted one, runs it and evaluates itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from copy import copy
from random import Random
from statistics import fmean
from typing import Literal, Self, final

from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.errors import UserError
from agentrl.seeds import derive
from agentrl.types import Message, Task
from agentrl.verify.extract import extract_answer
from agentrl_envs.families.base import Style, as_integer
from agentrl_envs.fresh import fresh
from agentrl_envs.retool_math import shared_checker
from agentrl_envs.rlot import solver
from agentrl_envs.rlot.blocks import (
    ASPECTS,
    BLOCKS,
    INSTRUCTIONS,
    UNTOUCHED,
    Block,
    Scores,
    chosen,
    executed,
    read_scores,
    shown,
)
from agentrl_envs.rlot.problems import KINDS, LEVELS, drawn

SOLVER, PRM = "solver", "prm"
"""Roles of `rollout.partners`; the solver's context has the same name."""

BLIND = {"sum": 1.0, "mixed": 0.4, "bracket": 0.4, "carry": 0.4, "all": 0.2}
"""What random blocks stay under, by kind of expression; sums need no skill."""

_NUMBER = re.compile(r"(?<![\w.])(?:0(?:\.\d+)?|1(?:\.0+)?)(?![\w.]*\d)")


@final
class Rlot(Env):
    """A navigator picks the logic blocks that a frozen solver runs (RL of Thoughts)."""

    def __init__(
        self,
        *,
        solver: Literal["scripted", "partner"] = "scripted",
        reward: Literal["outcome", "process"] = "outcome",
        view: Literal["scores", "text"] = "scores",
        max_blocks: int = 12,
        care: float = 1.0,
        kinds: tuple[str, ...] = KINDS,
        levels: tuple[int, ...] = LEVELS,
        style: Style = "plain",
    ) -> None:
        """Make one episode's environment.

        Args:
            solver: `scripted`, a deterministic solver of arithmetic with known weaknesses, or
                `partner`: the role `solver` of `rollout.partners` runs the blocks and evaluates
                itself, in contexts of its own.
            reward: `outcome` is 1 for a right final answer; `process` is the paper's: the score of
                each intermediate result while training (split `train`), the outcome otherwise. With
                partners the role `prm` gives these scores, from 0 to 1.
            view: what the navigator reads: the seven `scores` alone, as in the paper, or the problem
                and the solver's words as well (`text`).
            max_blocks: the last block that is run is terminate.
            care: how often `expert` takes the block that helps and not any block; below 1 it is partly
                wrong on purpose, for making a model that has something left to learn.
            kinds: expressions to draw: sum, mixed, bracket, carry, all.
            levels: their difficulties, of 1, 2 and 3.
            style: `terse` for tiny models, `plain` English otherwise.

        Raises UserError on a kind, a level or a cap that cannot be.
        """
        if not kinds or not set(kinds) <= set(KINDS):
            raise UserError(f"env.kinds: choose some of {', '.join(KINDS)}, not {list(kinds)}")
        if not levels or not set(levels) <= set(LEVELS):
            raise UserError(f"env.levels: choose some of 1, 2 and 3, not {list(levels)}")
        if max_blocks < 1 or not 0 <= care <= 1:
            raise UserError("env.max_blocks is at least 1, and env.care a probability")
        self.protocol = "retool_bare" if style == "terse" else "hermes"
        self.scripted = solver == "scripted"
        self.process, self.care = reward == "process", care
        self.view, self.style, self.max_blocks = view, style, max_blocks
        self.kinds, self.levels = tuple(kinds), tuple(levels)
        if not self.scripted:
            self.partners = (SOLVER, PRM) if self.process else (SOLVER,)
        elif not self.process and max_blocks >= 12:
            self.expert_floor = 1.0 if care == 1 else None
            self.random_ceiling = fmean(BLIND[kind] for kind in kinds)
        self._task: Task | None = None
        self._n_blocks = 0
        self._block: Block = "reason"
        """The block being run."""
        self._work = _begun("0")
        self._steps: tuple[str, ...] = ()
        """What a partner has written under each block."""
        self._state: Scores | None = UNTOUCHED
        self._awaits: Literal["navigator", "solver", "scores", "prm"] = "navigator"

    @property
    def task(self) -> Task:
        """The task being solved. Raises RuntimeError before `reset`."""
        if self._task is None:
            raise RuntimeError("reset() the environment before stepping it")
        return self._task

    async def fork(self, n: int) -> list[Self]:
        """Copies: all that changes are immutable values."""
        return [copy(self) for _ in range(n)]

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """The blocks and the first state, for the navigator. No chance in it.

        Raises UserError when the scripted solver is handed a task it did not generate.
        """
        expression = task.metadata.get("expression")
        if self.scripted and not isinstance(expression, str):
            raise UserError(f"task {task.id} is no expression; use env.solver=partner for it")
        self._task, self._n_blocks, self._steps = task, 0, ()
        self._awaits, self._block = "navigator", "reason"
        self._work = _begun(str(expression))
        self._state = _scores(self._work) if self.scripted else UNTOUCHED
        return (Message("user", self._opening()),)

    def _opening(self) -> str:
        problem = f"{self.task.question}\n" if self.view == "text" else ""
        if self.style == "terse":
            return problem + shown(self._state)
        return (
            "You steer a solver through a problem, one logic block at a time. Blocks:\n"
            + "\n".join(INSTRUCTIONS[block] for block in BLOCKS)
            + f"\nName the next block inside <answer> and </answer>.\n\n{problem}{self._told()}"
        )

    def _told(self) -> str:
        """The state in words."""
        if self.style == "terse":
            return shown(self._state)
        marks = shown(self._state).split()
        lines = [f"{aspect}: {mark}" for aspect, mark in zip(ASPECTS, marks, strict=True)]
        return "Self-evaluation of the solver, from 1 to 3:\n" + "\n".join(lines)

    async def step(self, action: Action) -> StepResult:
        """A choice of the navigator, or what a partner wrote."""
        match self._awaits:
            case "navigator":
                return await self._navigated(action.text)
            case "solver":
                return await self._solved(action.text)
            case "scores":
                self._state = read_scores(action.text)
                return self._to_navigator(0.0)
            case "prm":
                return self._judged(action.text)

    async def _navigated(self, text: str) -> StepResult:
        choice = chosen(text)
        forced = executed(
            "reason", n_blocks=self._n_blocks, answered=self._answered, most=self.max_blocks
        )
        if choice is None and forced != "terminate":
            self._n_blocks += 1
            known = f"Name one of {', '.join(BLOCKS)} inside <answer> and </answer>.\n"
            told = ("?\n" if self.style == "terse" else known) + self._told()
            return StepResult((Message("user", told),), 0.0, False, False, StepInfo())
        self._block = executed(
            choice or "terminate",
            n_blocks=self._n_blocks,
            answered=self._answered,
            most=self.max_blocks,
        )
        self._n_blocks += 1
        return self._ran() if self.scripted else self._asked()

    @property
    def _answered(self) -> bool:
        """An answer is present."""
        if self.scripted:
            return self._work.answer is not None
        return (
            bool(self._steps) and extract_answer(self._steps[-1], ("boxed", "answer")) is not None
        )

    def _ran(self) -> StepResult:
        """The block, run by the scripted solver."""
        self._work = solver.run(self._work, self._block)
        right = str(solver.expected(self._work)) == self.task.answer
        if self._block == "terminate":
            info = StepInfo(answer=str(self._work.answer))
            return StepResult((), float(right), True, False, info)
        self._state = _scores(self._work)
        return self._to_navigator(float(right) if self._pays else 0.0)

    @property
    def _pays(self) -> bool:
        """Intermediate results are scored: only while training."""
        return self.process and self.task.metadata.get("split", "train") == "train"

    def _to_navigator(self, reward: float, excluded: str | None = None) -> StepResult:
        self._awaits = "navigator"
        told = self._told()
        if self.view == "text":
            words = solver.written(self._work) if self.scripted else self._steps[-1]
            told = f"{words}\n{told}"
        info = StepInfo(context="", excluded=excluded)
        return StepResult((Message("user", told),), reward, False, False, info)

    def _asked(self) -> StepResult:
        """Hand the block to the solver, in its own context."""
        self._awaits = "solver"
        told = INSTRUCTIONS[self._block]
        if not self._steps:
            told = f"{self.task.question}\n\n{told}"
        info = StepInfo(context=SOLVER, by=SOLVER)
        return StepResult((Message("user", told),), 0.0, False, False, info)

    async def _solved(self, text: str) -> StepResult:
        """The solver has run the block: end, or have the result scored and evaluated."""
        self._steps = (*self._steps, text)
        if self._block == "terminate":
            answer = extract_answer(text, ("boxed", "answer"))
            right = await self._right(answer)
            excluded = "unverified" if right is None else None
            info = StepInfo(answer=answer, excluded=excluded)
            return StepResult((), float(bool(right)), True, False, info)
        if self._pays:
            return self._to_partner("prm", PRM, "How likely does this lead to the right answer? "
                                    "Answer with a number from 0 to 1.")  # fmt: skip
        return self._evaluated()

    def _evaluated(self, reward: float = 0.0, excluded: str | None = None) -> StepResult:
        """Have the solver evaluate itself."""
        wanted = "; ".join(ASPECTS)
        asked = f"Score from 1 to 3, as seven numbers and nothing else: {wanted}."
        step = self._to_partner("scores", SOLVER, asked)
        return step._replace(reward=reward, info=StepInfo(step.info.results, excluded=excluded,
                             context=step.info.context, by=SOLVER))  # fmt: skip

    def _to_partner(self, awaited: Literal["scores", "prm"], role: str, asked: str) -> StepResult:
        """Ask a partner about the work so far, in a fresh context that retells it."""
        self._awaits = awaited
        told = "\n\n".join([self.task.question, *self._steps, asked])
        info = StepInfo(context=f"{awaited} {self._n_blocks}", by=role)
        return StepResult((Message("user", told),), 0.0, False, False, info)

    def _judged(self, text: str) -> StepResult:
        """A score from 0 to 1; one that cannot be read leaves the trajectory out of training."""
        found = _NUMBER.findall(text)
        if not found:
            return self._evaluated(0.0, "unscored")
        return self._evaluated(float(found[-1]))

    async def _right(self, answer: str | None) -> bool | None:
        """Whether the final answer is right; None when that could not be decided."""
        if answer is None:
            return False
        gold = str(self.task.answer)
        if as_integer(gold) is not None and as_integer(answer) is not None:
            return as_integer(gold) == as_integer(answer)
        return (await shared_checker().check(gold, answer)).correct

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """An endless stream of expressions. Raises UserError on a split other than train and test."""
        if split not in ("train", "test"):
            raise UserError(f"rlot has the splits train and test, not {split!r}")
        rng = Random(derive("rlot", seed, split))
        return fresh(lambda: drawn(rng, self.kinds, rng.choice(self.levels), split))

    def expert(self, task: Task, *, seed: int) -> Iterable[str]:
        """The blocks that the scores call for; with a partner, one of each that may help."""
        if not self.scripted:
            plan: tuple[Block, ...] = ("decompose", "reason", "refine", "terminate")
            return tuple(f"<answer>{block}</answer>" for block in plan)
        work, turns = _begun(str(task.metadata.get("expression"))), list[str]()
        rng = Random(derive("care", seed, task.id))
        while work.answer is None:
            block = solver.advised(work) if rng.random() < self.care else rng.choice(BLOCKS)
            turns.append(f"<answer>{block}</answer>")
            work = solver.run(
                work, executed(block, n_blocks=len(turns) - 1, answered=False, most=self.max_blocks)
            )
        if not turns[-1].endswith("terminate</answer>") and len(turns) < self.max_blocks:
            turns.append("<answer>terminate</answer>")
        return tuple(turns)

    def random_turn(self, rng: Random) -> str:
        """Any block."""
        return f"<answer>{rng.choice(BLOCKS)}</answer>"


_begun, _scores = solver.begun, solver.scores


__all__ = ["Rlot"]
