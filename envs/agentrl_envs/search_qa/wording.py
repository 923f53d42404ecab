"""The world in words: pages, mentions and questions, terse for tiny models or plain English."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentrl_envs.families.base import Style
from agentrl_envs.search_qa.relations import Kind, Relation, of_kind

_EVENTS = ("A fair", "A wedding", "A regatta", "A trial", "A concert", "A strike")


def page_text(name: str, kind: Kind, facts: Mapping[str, str], style: Style) -> str:
    """`home Tavok firm Zekol`, or a sentence per fact; `facts` is relation -> value."""
    told = [r for r in of_kind(kind) if style == "plain" or r.value != "year"]
    if style == "terse":
        return " ".join(f"{r.name} {facts[r.name]}" for r in told)
    return " ".join(r.sentence.format(name=name, value=facts[r.name]) for r in told)


def mention(name: str, others: Sequence[str], number: int, style: Style) -> tuple[str, str]:
    """Title and text of a distractor passage: `name` beside names that answer nothing."""
    if style == "terse":
        return f"n{number}", f"{name} met {others[0]}"
    event = _EVENTS[number % len(_EVENTS)]
    return (
        f"{event}, report {number}",
        f"{name} was spoken of at the same table as {' and '.join(others)}. Nothing was decided.",
    )


def question_text(start: str, chain: Sequence[Relation], style: Style) -> str:
    """`Mirod home mayor?`, or the nested question."""
    if style == "terse":
        return " ".join([start, *(relation.name for relation in chain)]) + "?"
    asked = start
    for relation in chain:
        asked = relation.phrase.format(asked)
    return f"What is {asked}?" if chain[-1].value != "person" else f"Who is {asked}?"


__all__ = ["mention", "page_text", "question_text"]
