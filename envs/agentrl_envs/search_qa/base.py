"""What the environments that search have in common: tasks, corpora, questions and scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from agentrl.context import Context
from agentrl.env import Action, Observation, StepInfo, StepResult
from agentrl.errors import UserError
from agentrl.retrieval import Retriever
from agentrl.tool import Tool
from agentrl.types import Message, Task
from agentrl.verify.extract import extract_answer
from agentrl.verify.text_answer import exact_match, token_f1
from agentrl_envs.families.base import Style
from agentrl_envs.search_qa.corpora import Settings, named, own_passages
from agentrl_envs.search_qa.lookup import Lookup
from agentrl_envs.search_qa.overlap import WordOverlap
from agentrl_envs.search_qa.questions import HOPS, questions
from agentrl_envs.search_qa.world import World, WorldSpec, world_of
from agentrl_envs.tool_env import ToolEnv

Metric = Literal["em", "f1"]

ASK = "Answer the question by searching. Put a short answer inside <answer> and </answer>."
"""Precedes the question in the plain style, whether or not a protocol describes tags."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How questions are made, searched and scored; the environments document each."""

    style: Style
    hops: tuple[int, ...]
    distractors: int
    people: int
    world: int
    metric: Metric
    top_k: int
    observation_chars: int
    max_searches: int
    search_habit: float
    retriever: Settings | None

    def __post_init__(self) -> None:
        if not self.hops or not set(self.hops) <= set(HOPS):
            raise UserError(f"env.hops: choose some of 1, 2 and 3, not {list(self.hops)}")
        if not 0 <= self.search_habit <= 1:
            raise UserError(f"env.search_habit is a probability, not {self.search_habit:g}")
        if self.people < 8 or self.distractors < 0 or self.observation_chars < 2:
            raise UserError(
                "env.people is at least 8, env.distractors at least 0, env.observation_chars at "
                "least 2"
            )
        if self.top_k < 1 or self.max_searches < 1:
            raise UserError("env.top_k and env.max_searches are at least 1")


class SearchEnv(ToolEnv):
    """An environment whose tool searches the corpus of the task.

    A task of a generated world is searched in that world, one that brings passages in them, any
    other in `retriever`.
    """

    def __init__(self, options: SearchOptions, *, max_calls: int, call_s: float) -> None:
        self._lookup = Lookup(
            k=options.top_k, style=options.style, max_chars=options.observation_chars
        )
        super().__init__((self._lookup,), max_calls=max_calls, call_s=call_s)
        self.options = options
        self.protocol = "search_r1_bare" if options.style == "terse" else "search_r1"
        self._named = None if options.retriever is None else named(options.retriever)
        self._borrowed: Retriever | None = None
        self._turns = 0

    async def open(self, ctx: Context) -> None:
        """Take hold of the named retriever, which all episodes of the process share."""
        if self._named is not None and self._borrowed is None:
            self._borrowed = await self._named.borrow()
        await super().open(ctx)

    async def close(self) -> None:
        """Give the retriever back."""
        borrowed, self._borrowed = self._borrowed, None
        if self._named is not None and borrowed is not None:
            await self._named.give_back()
        await super().close()

    def _with_tools(self, tools: Sequence[Tool]) -> Self:
        """A copy over the same corpus; it takes hold of a named retriever when it is opened."""
        made = super()._with_tools(tools)
        (made._lookup,) = (tool for tool in tools if isinstance(tool, Lookup))
        made._borrowed = None
        return made

    def first_messages(self, task: Task) -> Observation:
        """The question, as one user message that ends as Search-R1's does."""
        if task.answer is None:
            raise UserError(f"task {task.id} has no answer; search needs one to check against")
        asked = task.question.strip()
        if self.options.style == "terse":
            return (Message("user", asked),)
        mark = "" if asked.endswith("?") else "?"
        return (Message("user", f"{ASK}\nQuestion: {asked}{mark}"),)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Ask the question over its corpus. Raises UserError on a task that comes without one."""
        self._turns = 0
        await self._lookup.bind(self.corpus(task))
        return await super().reset(task, seed=seed)

    def corpus(self, task: Task) -> Retriever:
        """Where a task is searched. Raises UserError on a task that comes without passages."""
        split = task.metadata.get("split")
        if "path" in task.metadata and split in ("train", "test"):
            return self._world_of("train" if split == "train" else "test").retriever
        passages = own_passages(task)
        if passages:
            return WordOverlap(passages)
        if self._borrowed is None:
            raise UserError(
                f"task {task.id} brings no passages to search; name a corpus with "
                "env.retriever.name=fts5 env.retriever.corpus=FILE"
            )
        return self._borrowed

    async def judge(self, action: Action) -> StepResult:
        """Score the answer and end."""
        said = extract_answer(action.text, ("answer",))
        return StepResult((), self.score(said), True, False, StepInfo(answer=said))

    def score(self, said: str | None) -> float:
        """The metric against every accepted answer; no answer scores 0."""
        golds = accepted(self.task)
        if self.options.metric == "em":
            return float(exact_match(said, golds))
        return token_f1(said, golds)

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """An endless stream over the split's world. Raises UserError on another split."""
        if split not in ("train", "test"):
            raise UserError(f"there are the splits train and test, not {split!r}")
        world = self._world_of("train" if split == "train" else "test")
        return questions(world, seed=seed, hops=self.options.hops)

    def _world_of(self, split: Literal["train", "test"]) -> World:
        o = self.options
        return world_of(WorldSpec(split, o.style, o.world, o.people, o.distractors))


def accepted(task: Task) -> Sequence[str]:
    """Every accepted answer: the task's own and its metadata's `answers`."""
    listed = task.metadata.get("answers")
    more = listed if isinstance(listed, list | tuple) else ()
    return [str(task.answer), *(str(answer) for answer in more)]


__all__ = ["ASK", "Metric", "SearchEnv", "SearchOptions", "accepted"]
