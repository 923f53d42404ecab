"""The answer of a turn, and what most of the agents say."""

from __future__ import annotations

from collections.abc import Sequence

from agentrl.verify.extract import extract_answer
from agentrl_envs.families.base import as_integer


def answer_of(text: str) -> str | None:
    """The answer behind the thinking: the tag's, or else the last box's."""
    return extract_answer(text.rpartition("</think>")[2], ("answer", "boxed"))


def same(answer: str) -> str:
    """A key that is equal for answers that differ only in how they are written."""
    number = as_integer(answer)
    return "".join(answer.split()).lower() if number is None else str(number)


def majority(answers: Sequence[str | None]) -> str | None:
    """The answer given most often; of equally frequent ones the first given. None is no vote."""
    given = [answer for answer in answers if answer]
    keys = [same(answer) for answer in given]
    if not keys:
        return None
    most = max(map(keys.count, keys))
    return next(answer for answer, key in zip(given, keys, strict=True) if keys.count(key) == most)


__all__ = ["answer_of", "majority", "same"]
