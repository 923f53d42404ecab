"""Questions answered by searching, after Search-R1 (arXiv:2503.09516).

The model writes `<search>` or `<answer>`; text with neither is told so. After `max_searches` such
turns one more is read, and it must answer. The reward is exact match (or token F1) of the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import Literal, final

from agentrl.env import Action, Observation, StepInfo, StepResult
from agentrl.errors import UserError
from agentrl.retrieval import Retriever
from agentrl.types import Message, Task
from agentrl.verify.extract import last_answer_tag
from agentrl.verify.text_answer import exact_match, token_f1
from agentrl_envs.families.base import Style
from agentrl_envs.search_qa.expert import blind_turn, demonstrate
from agentrl_envs.search_qa.lookup import Lookup
from agentrl_envs.search_qa.questions import HOPS, questions
from agentrl_envs.search_qa.world import World, WorldSpec, world_of
from agentrl_envs.tool_env import ToolEnv

Metric = Literal["em", "f1"]


@final
class SearchQA(ToolEnv):
    """Questions of one to three hops, answered by searching a corpus."""

    protocol = "search_r1"
    random_ceiling = 0.02

    def __init__(
        self,
        *,
        style: Style = "plain",
        hops: tuple[int, ...] = HOPS,
        distractors: int = 2,
        people: int = 400,
        world: int = 0,
        metric: Metric = "em",
        top_k: int = 3,
        max_searches: int = 4,
        max_calls: int = 16,
        call_s: float = 30.0,
        search_habit: float = 1.0,
    ) -> None:
        """Make one episode's environment.

        Args:
            style: `terse` pages and questions for tiny models, `plain` English otherwise.
            hops: how many facts a question may chain, of 1, 2 and 3.
            distractors: passages per entity that mention it and answer nothing.
            people: size of the world; towns and companies are a quarter as many each.
            world: seed of the world.
            metric: `em` exact match, or `f1` of the answer's tokens.
            top_k: passages a search shows.
            max_searches: turns before the last one, which must answer.
            max_calls: searches per episode, whatever `max_searches` says.
            call_s: seconds one search may take.
            search_habit: how often `expert` goes on at a hop instead of answering too early, for
                making a model that has something left to learn.

        Raises UserError on a value out of its range.
        """
        if not hops or not set(hops) <= set(HOPS):
            raise UserError(f"env.hops: choose some of 1, 2 and 3, not {list(hops)}")
        if not 0 <= search_habit <= 1:
            raise UserError(f"env.search_habit is a probability, not {search_habit:g}")
        if people < 8 or distractors < 0 or top_k < 1 or max_searches < 1:
            raise UserError(
                "env.people is at least 8, env.top_k and env.max_searches at least 1, and "
                "env.distractors not negative"
            )
        self._lookup = Lookup(k=top_k, style=style)
        super().__init__((self._lookup,), max_calls=max_calls, call_s=call_s)
        self.style: Style = style
        self.protocol = "search_r1_bare" if style == "terse" else "search_r1"
        self.expert_floor = 0.99 if search_habit == 1 else None
        self.hops, self.metric, self.max_searches = tuple(hops), metric, max_searches
        self.search_habit = search_habit
        self._world = (style, world, people, distractors)
        self._turns = 0

    def first_messages(self, task: Task) -> Observation:
        """The question, as one user message; Search-R1's prompt is the protocol's."""
        if task.answer is None:
            raise UserError(f"task {task.id} has no answer; search_qa needs one to check against")
        asked = task.question.strip()
        if self.style == "terse":
            return (Message("user", asked),)
        mark = "" if asked.endswith("?") else "?"
        return (Message("user", f"Question: {asked}{mark}"),)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Ask the question over its corpus. Raises UserError on a task that comes without one."""
        self._turns = 0
        self._lookup.bind(self._corpus(task))
        return await super().reset(task, seed=seed)

    def _corpus(self, task: Task) -> Retriever:
        split = task.metadata.get("split")
        if split in ("train", "test"):
            return self._world_of("train" if split == "train" else "test").retriever
        raise UserError(f"task {task.id} brings no passages; give env.retriever={{name: fts5, ...}}")

    async def step(self, action: Action) -> StepResult:
        """Search, correct, or judge; past `max_searches` turns only an answer counts."""
        self._turns += 1
        last = self._turns > self.max_searches
        if last and (action.tool_calls or action.parse_error is not None):
            return StepResult((), 0.0, False, True, StepInfo())
        return await super().step(action)

    async def judge(self, action: Action) -> StepResult:
        """Score the answer and end."""
        said = last_answer_tag(action.text)
        return StepResult((), self.score(said), True, False, StepInfo(answer=said))

    def score(self, said: str | None) -> float:
        """The metric against every accepted answer; no answer scores 0."""
        golds = accepted(self.task)
        return float(exact_match(said, golds)) if self.metric == "em" else token_f1(said, golds)

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """An endless stream over the split's world. Raises UserError on another split."""
        if split not in ("train", "test"):
            raise UserError(f"search_qa has the splits train and test, not {split!r}")
        world = self._world_of("train" if split == "train" else "test")
        return questions(world, seed=seed, hops=self.hops)

    def _world_of(self, split: Literal["train", "test"]) -> World:
        style, seed, people, distractors = self._world
        return world_of(WorldSpec(split, style, seed, people, distractors))

    def expert(self, task: Task, *, seed: int) -> Iterable[str]:
        """Searches hop by hop, as patiently as `search_habit` says."""
        return demonstrate(task, seed=seed, search_habit=self.search_habit, style=self.style)

    def random_turn(self, rng: Random) -> str:
        """A search for, or an answer of, an invented name."""
        return blind_turn(rng, self.style)


def accepted(task: Task) -> Sequence[str]:
    """Every accepted answer: the task's own and its metadata's `answers`."""
    listed = task.metadata.get("answers")
    more = listed if isinstance(listed, list | tuple) else ()
    return [str(task.answer), *(str(answer) for answer in more)]


__all__ = ["Metric", "SearchQA", "accepted"]
