"""Questions answered by searching, after Search-R1 (arXiv:2503.09516).

The model writes `<search>` or `<answer>`; text with neither is told so. After `max_searches` such
turns one more is read, and it must answer. The reward is exact match (or token F1) of the answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import final

from agentrl.env import Action, StepInfo, StepResult
from agentrl.types import Task
from agentrl_envs.families.base import Style
from agentrl_envs.search_qa.base import Metric, SearchEnv, SearchOptions
from agentrl_envs.search_qa.corpora import Settings
from agentrl_envs.search_qa.expert import blind_turn, demonstrate
from agentrl_envs.search_qa.questions import HOPS


@final
class SearchQA(SearchEnv):
    """Questions of one to three hops, answered by searching a corpus."""

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
        observation_chars: int = 2000,
        max_searches: int = 4,
        max_calls: int = 16,
        call_s: float = 30.0,
        search_habit: float = 1.0,
        retriever: Settings | None = None,
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
            observation_chars: budget of what a search shows in the plain style; the longest
                passages lose their ends.
            max_searches: turns before the last one, which must answer.
            max_calls: searches per episode, whatever `max_searches` says.
            call_s: seconds one search may take.
            search_habit: how often `expert` goes on at a hop instead of answering too early, for
                making a model that has something left to learn.
            retriever: where tasks are searched that bring no passages: the `name` of a retriever
                and its options, such as `{name: fts5, corpus: corpus.jsonl}`.

        Raises UserError on a value out of its range.
        """
        options = SearchOptions(
            style, tuple(hops), distractors, people, world, metric, top_k,
            observation_chars, max_searches, search_habit, retriever,
        )  # fmt: skip
        super().__init__(options, max_calls=max_calls, call_s=call_s)
        self.expert_floor = 0.99 if search_habit == 1 else None

    async def step(self, action: Action) -> StepResult:
        """Search, correct, or judge; past `max_searches` turns only an answer counts."""
        self._turns += 1
        answers = not action.tool_calls and action.parse_error is None
        if self._turns > self.options.max_searches and not answers:
            return StepResult((), 0.0, False, True, StepInfo())
        return await super().step(action)

    def expert(self, task: Task, *, seed: int) -> Iterable[str]:
        """Searches hop by hop, as patiently as `search_habit` says."""
        o = self.options
        return demonstrate(task, seed=seed, search_habit=o.search_habit, style=o.style)

    def random_turn(self, rng: Random) -> str:
        """A search for, or an answer of, an invented name."""
        return blind_turn(rng, self.options.style)


__all__ = ["SearchQA"]
