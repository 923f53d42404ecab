"""Searching with a verdict on every piece of evidence, after ReSeek (arXiv:2510.00568).

The turn behind each search must judge what was found, `<judge>Yes</judge>` or `<judge>No</judge>`,
before it goes on. Rejected evidence leaves the context: the next row retells what was done without it
(C_t = tau_{t-1} + 1[judge is not No] o_t); what was written before stays trained as it was sampled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Literal, final

from agentrl.env import Action, Observation, StepInfo, StepResult
from agentrl.errors import UserError
from agentrl.types import Message, Task
from agentrl_envs.families.base import Style
from agentrl_envs.search_qa.base import Metric, SearchEnv, SearchOptions
from agentrl_envs.search_qa.corpora import Settings
from agentrl_envs.search_qa.evidence import Sidelong, misses, verdict
from agentrl_envs.search_qa.expert import answer_turn, blind_turn, reach, search_turn
from agentrl_envs.search_qa.questions import HOPS, chain_of, path_of

ASK = (
    "\nAfter every search, say first whether what was found helps: <judge>Yes</judge> or "
    "<judge>No</judge>. After No, search again; you may not answer yet."
)
"""Follows the question in the plain style."""
JUDGE_FIRST = "Judge what was found first: <judge>Yes</judge> or <judge>No</judge>."
SEARCH_AGAIN = "You rejected what was found: search again before you answer."
SO_FAR = "\n\nSo far:\n"
"""Stands between the question and what is retold."""


@dataclass(frozen=True, slots=True)
class _Told:
    """A turn as it is retold."""

    text: str
    shown: str | None
    """What answered it; None once that was rejected."""
    evidence: bool = False
    """Whether that was found by searching."""


@final
class ReSeek(SearchEnv):
    """Questions answered by searching, each finding judged before it is used."""

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
        max_searches: int = 8,
        max_calls: int = 16,
        call_s: float = 30.0,
        search_habit: float = 1.0,
        retriever: Settings | None = None,
        missed: float = 0.3,
        rejected: Literal["dropped", "kept"] = "dropped",
        strict: bool = True,
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
            observation_chars: budget of what a search shows in the plain style.
            max_searches: turns before the last one, which must answer.
            max_calls: searches per episode, whatever `max_searches` says.
            call_s: seconds one search may take.
            search_habit: how often `expert` goes on at a hop instead of answering too early.
            retriever: where tasks are searched that bring no passages.
            missed: how often a search of a generated world shows distractors only; never twice
                running, so that whoever rejects them and asks again is served.
            rejected: `dropped` takes rejected evidence out of the context (the paper's hard mask),
                `kept` leaves it there, labelled by the judgement (its later version).
            strict: whether an answer right after No is refused.

        Raises UserError on a value out of its range.
        """
        if not 0 <= missed <= 1:
            raise UserError(f"env.missed is a probability, not {missed:g}")
        options = SearchOptions(
            style, tuple(hops), distractors, people, world, metric, top_k, observation_chars,
            max_searches, search_habit, retriever,
        )  # fmt: skip
        super().__init__(options, max_calls=max_calls, call_s=call_s)
        self.expert_floor = 0.99 if search_habit == 1 else None
        self._missed, self._drops, self._strict = missed, rejected == "dropped", strict
        self._told: tuple[_Told, ...] = ()
        self._searches = self._dropped = 0
        self._unjudged = False

    def first_messages(self, task: Task) -> Observation:
        """The question and, in the plain style, what is to be judged."""
        (asked,) = super().first_messages(task)
        if self.options.style == "terse":
            return (asked,)
        return (replace(asked, content=asked.content + ASK),)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Ask the question; nothing has been found yet."""
        self._told, self._unjudged = (), False
        self._searches = self._dropped = 0
        return await super().reset(task, seed=seed)

    async def step(self, action: Action) -> StepResult:
        """Correct a turn that does not judge; else search or judge, without rejected evidence."""
        self._turns += 1
        said = verdict(action.text)
        answers = not action.tool_calls and action.parse_error is None
        wrong = self._wrong(said, answers)
        last = self._turns > self.options.max_searches
        if last and (wrong is not None or not answers):
            return StepResult((), 0.0, False, True, StepInfo())
        if wrong is not None:
            return self._corrected(action, wrong)
        if not action.tool_calls:
            return await self._spoken(action)
        return await self._searched(action, rejects=self._unjudged and said is False)

    def _wrong(self, said: bool | None, answers: bool) -> str | None:
        """What is wrong with a turn that should judge; None when nothing is."""
        if not self._unjudged:
            return None
        if said is None:
            return JUDGE_FIRST
        return SEARCH_AGAIN if self._strict and answers and not said else None

    def _corrected(self, action: Action, wrong: str) -> StepResult:
        self._told = (*self._told, _Told(action.text, wrong))
        answered = tuple(
            Message("tool", wrong, call_id=call.id, name=call.name) for call in action.tool_calls
        )
        return StepResult(answered or (Message("tool", wrong),), 0.0, False, False, StepInfo())

    async def _spoken(self, action: Action) -> StepResult:
        result = await super().step(action)
        shown = "\n".join(message.content for message in result.observation)
        self._told = (*self._told, _Told(action.text, shown or None))
        return result

    async def _searched(self, action: Action, *, rejects: bool) -> StepResult:
        await self._aim()
        result = await super().step(action)
        shown = "\n".join(message.content for message in result.observation)
        before = self._told
        if rejects and self._drops:
            before = self._without_evidence()
        found = any(done.error is None for done in result.info.results)
        self._told = (*before, _Told(action.text, shown, evidence=found))
        self._unjudged = found
        if not rejects or not self._drops:
            return result
        self._dropped += 1
        retold = replace(result.info, context=f"kept-{self._dropped}")
        return result._replace(observation=self._retold(), info=retold)

    async def _aim(self) -> None:
        """Let the next search find, or miss."""
        corpus = self.corpus(self.task)
        generated = "path" in self.task.metadata
        if generated and misses(self.task, self._searches, self._missed):
            corpus = Sidelong(corpus)
        self._searches += 1
        await self._lookup.bind(corpus)

    def _without_evidence(self) -> tuple[_Told, ...]:
        """What was told up to the last search, without what it showed; corrections since are moot."""
        last = max(i for i, told in enumerate(self._told) if told.evidence)
        return (*self._told[:last], replace(self._told[last], shown=None, evidence=False))

    def _retold(self) -> Observation:
        """The question and what was done, as one message: nothing in it is the model's to be scored."""
        (asked,) = self.first_messages(self.task)
        lines: list[str] = []
        for told in self._told:
            lines.append(told.text)
            if told.shown is not None:
                lines.append(f"<information>{told.shown}</information>")
        return (replace(asked, content=asked.content + SO_FAR + "\n".join(lines)),)

    def expert(self, task: Task, *, seed: int) -> Iterable[str]:
        """Searches hop by hop, again after a miss, and says which is which."""
        return self._demonstrated(task, seed)

    def _demonstrated(self, task: Task, seed: int) -> Iterator[str]:
        path, style = path_of(task), self.options.style
        far = reach(task, seed=seed, search_habit=self.options.search_habit)
        judged, searches = "", 0
        for entity, relation in zip(path[:far], chain_of(task)[:far], strict=True):
            thought = f"I need {relation.phrase.format(entity)}."
            yield judged + search_turn(entity, style, thought=thought)
            searches += 1
            if misses(task, searches - 1, self._missed):
                yield _judge(False) + search_turn(entity, style, thought="It is not there.")
                searches += 1
            judged = _judge(True)
        yield judged + answer_turn(path[far], style, thought=f"It is {path[far]}.")

    def random_turn(self, rng: Random) -> str:
        """A verdict, and a search for or an answer of an invented name."""
        return _judge(rng.random() < 0.5) + blind_turn(rng, self.options.style)


def _judge(helps: bool) -> str:
    return f"<judge>{'Yes' if helps else 'No'}</judge>"


__all__ = ["ReSeek"]
