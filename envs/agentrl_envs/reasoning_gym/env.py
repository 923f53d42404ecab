"""The tasks of the reasoning_gym package (arXiv 2505.24760), scored by the package itself.

    agentrl train env=reasoning_gym env.dataset=chain_sum 'env.options={max_terms: 4}'

An item is generated from its number, so a task keeps the number alone and the item is made again to be
scored.
"""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from functools import lru_cache
from hashlib import sha256
from importlib import import_module
from random import Random
from typing import Any, Protocol, Self, final

from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.errors import SetupError, UserError
from agentrl.seeds import derive
from agentrl.suggest import did_you_mean
from agentrl.types import Message, Task
from agentrl.verify.extract import extract_answer
from agentrl_envs.reasoning_gym.guard import allowed

ASK = "\n\nThink step by step, then give the final answer alone in <answer></answer> tags."

NUMBERS = 2**31
"""Items are numbered below this."""

PATIENCE = 1000
"""Items in a row that may be known, or of the other split, before a data set is exhausted."""


SCORE_S = 60.0
"""Seconds a score may take; then the answer counts as unverified."""


class _Items(Protocol):
    """What this environment uses of the package's data sets."""

    def __getitem__(self, idx: int) -> Mapping[str, Any]:
        """Make one item."""
        ...

    def score_answer(self, answer: str | None, entry: Mapping[str, Any]) -> float:
        """What an answer is worth, mostly in [0, 1]."""
        ...


class ReasoningGym(Env):
    """Tasks of one data set of the package, some of which give questions alone."""

    protocol = "hermes"
    random_ceiling = 0.3

    def __init__(self, dataset: str, options: str, ask: str) -> None:
        self.dataset = dataset
        self.ask = ask
        self._options = options
        self._number: int | None = None

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """The question."""
        self._number = self._item_of(task)
        return (Message("user", task.question + self.ask),)

    def _item_of(self, task: Task) -> int:
        number = task.metadata.get("item")
        if not isinstance(number, int) or task.metadata.get("dataset") != self.dataset:
            raise UserError(
                f"task {task.id} is no item of {self.dataset}; env=reasoning_gym plays its own tasks"
            )
        return number

    async def step(self, action: Action) -> StepResult:
        """Score the answer tag of the turn, and end."""
        if self._number is None:
            raise RuntimeError("reset() the environment before stepping it")
        answer = extract_answer(action.text, ("answer",))
        reward, excluded = 0.0, None
        if answer and allowed(self.dataset, answer):
            scoring = asyncio.to_thread(self._scored, self._number, answer)
            try:
                reward = await asyncio.wait_for(scoring, SCORE_S)
            except TimeoutError:
                excluded = "unverified"
        return StepResult((), reward, True, False, StepInfo(answer=answer, excluded=excluded))

    def _scored(self, number: int, answer: str) -> float:
        """The package's own score; an answer that its scorer chokes on is worth nothing."""
        source = made(self.dataset, self._options, number)
        try:
            return float(source.score_answer(answer, source[0]))
        except Exception:  # noqa: BLE001  some scorers fail on what a model may write
            return 0.0

    async def fork(self, n: int) -> list[Self]:
        """Copies; nothing mutable is shared."""
        return [copy(self) for _ in range(n)]

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """A stream of items; a hash of the question decides its split.

        Ends when a small data set has no new one left. Raises UserError on another split.
        """
        if split not in ("train", "test"):
            raise UserError(f"reasoning_gym has the splits train and test, not {split!r}")
        rng = Random(derive("reasoning_gym", self.dataset, split, seed))
        seen: set[str] = set()
        missed = 0
        while missed < PATIENCE:
            number = rng.randrange(NUMBERS)
            item = made(self.dataset, self._options, number)[0]
            question = str(item["question"])
            digest = sha256(question.encode()).hexdigest()[:16]
            if digest in seen or (int(digest, 16) % 4 == 0) != (split == "test"):
                missed += 1
                continue
            missed = 0
            seen.add(digest)
            answer = None if item["answer"] is None else str(item["answer"])
            metadata = {"dataset": self.dataset, "item": number}
            yield Task(f"{self.dataset}/{digest}", question, answer, metadata, seed=number)

    def random_turn(self, rng: Random) -> str:
        """A short number, as good a blind guess as any."""
        return f"<answer>{rng.randrange(1000)}</answer>"


@final
class AnsweredReasoningGym(ReasoningGym):
    """A data set that gives answers with its questions."""

    expert_floor = 1.0

    def expert(self, task: Task, *, seed: int) -> Iterable[str]:
        """The package's own answer."""
        return [f"<answer>{task.answer}</answer>"]


def reasoning_gym(
    *, dataset: str = "chain_sum", options: Mapping[str, Any] | None = None, ask: str = ASK
) -> ReasoningGym:
    """Tasks of the reasoning_gym package, scored by the package itself.

    Args:
        dataset: a name of the package's (chain_sum, countdown, sudoku, ...).
        options: the data set's own settings, such as `{max_terms: 4}`.
        ask: put behind the question.

    Raises SetupError without the package, UserError on an unknown data set or option.
    """
    given = json.dumps(dict(options or {}), sort_keys=True)
    answered = made(dataset, given, 0)[0]["answer"] is not None
    return (AnsweredReasoningGym if answered else ReasoningGym)(dataset, given, ask)


@lru_cache(maxsize=256)
def made(dataset: str, options: str, number: int) -> _Items:
    """The package's data set whose only item has that number; read-only, so shared.

    One item each, because some data sets make all of theirs at once. Raises SetupError or UserError.
    """
    factory = _package()
    known: Mapping[str, Any] = factory.DATASETS
    if dataset not in known:
        raise UserError(f"reasoning_gym has no data set {dataset!r}{did_you_mean(dataset, known)}")
    try:
        return factory.create_dataset(dataset, **{**json.loads(options), "seed": number, "size": 1})
    except (TypeError, AssertionError, ValueError) as error:
        told = " ".join(str(error).split())
        raise UserError(f"env.options: {dataset} does not take {options} ({told})") from None


def _package() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a dependency has invalid escapes in its source
            import_module("reasoning_gym")
            return import_module("reasoning_gym.factory")
    except ModuleNotFoundError as error:
        raise SetupError(
            f"env=reasoning_gym needs the package reasoning_gym ({error}); "
            'install it with `pip install "agentrl-framework[tasks]"`'
        ) from None


__all__ = ["AnsweredReasoningGym", "ReasoningGym", "made", "reasoning_gym"]
