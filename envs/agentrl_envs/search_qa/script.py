"""A searcher without a model: it looks up the question itself and answers gold if that was found.

It cannot reason, so what it gets right shows that the path (questions, corpus, retriever, tags,
answer, score) is right, and how many questions one search can settle: an upper bound on a reader of
the first results. `twin_passages` makes the corpus for which that number is known beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from agentrl.chat.base import Tokenizer
from agentrl.engine.base import Sampling
from agentrl.retrieval import Passage
from agentrl.seeds import derive
from agentrl.transcript import Int32Array
from agentrl.types import Task
from agentrl.verify.text_answer import normalise_text
from agentrl_envs.search_qa.base import accepted

_FOUND = "<information>"
UNKNOWN = "unknown"
"""What is answered when no passage holds a gold answer."""


def question_search(tasks: Sequence[Task], tokenizer: Tokenizer) -> QuestionSearch:
    """`engine=scripted engine.script=question_search`."""
    return QuestionSearch(tasks, tokenizer)


class QuestionSearch:
    """A policy that searches for the question and knows the gold answer when it sees it."""

    def __init__(self, tasks: Sequence[Task], tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tasks = tuple(tasks)

    def __call__(self, token_ids: Int32Array, sampling: Sampling, request: int) -> str:
        """The next turn of the row. Raises ValueError on a row of no known task."""
        text = self._tokenizer.decode(token_ids)
        task, said = self._found(text)
        if _FOUND not in said:
            return f"<search> {task.question.strip()} </search>"
        known = held(said, accepted(task))
        return f"<answer> {known or UNKNOWN} </answer>"

    def _found(self, text: str) -> tuple[Task, str]:
        """The task of a row and what follows its question: passages may quote others later on."""
        places = [(text.find(task.question.strip()), task) for task in self._tasks]
        asked = min(
            ((at, -len(task.question), i) for i, (at, task) in enumerate(places) if at >= 0),
            default=None,
        )
        if asked is None:
            raise ValueError("the row holds none of the script's questions")
        at, _, index = asked
        task = self._tasks[index]
        return task, text[at + len(task.question.strip()) :]


def held(text: str, golds: Sequence[str]) -> str | None:
    """The first gold answer that stands in the text as whole words, normalised; None without one."""
    padded = f" {normalise_text(text)} "
    found = (gold for gold in golds if normalise_text(gold))
    return next((gold for gold in found if f" {normalise_text(gold)} " in padded), None)


def twin_passages(
    tasks: Sequence[Task], *, share: float = 0.8, seed: int = 0
) -> tuple[list[Passage], set[str]]:
    """A page for every question, and the ids of the tasks whose own page holds the answer.

    After FictionalHot (arXiv:2510.00568), which puts matching pages into the corpus so that what is
    found does not depend on what a model has read. A `share` of the pages tells the answer; another
    speaks of the question alone, and holds the answer only where the question does ("A or B?").
    """
    rng = Random(derive("twins", seed))
    told = {task.id for task in rng.sample(list(tasks), round(share * len(tasks)))}
    passages: list[Passage] = []
    for task in tasks:
        about = task.question.strip().rstrip("?")
        known = f"It is {task.answer}." if task.id in told else "Nobody has found out."
        passages.append(Passage(task.id, f"Note {len(passages)}", f"{about}: {known}"))
    pairs = zip(tasks, passages, strict=True)
    return passages, {task.id for task, page in pairs if held(page.text, accepted(task))}


__all__ = ["UNKNOWN", "QuestionSearch", "held", "question_search", "twin_passages"]
