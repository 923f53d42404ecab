"""Prompts with something added: read while sampling, left out again where the rows are trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from agentrl.episode import Opening
from agentrl.types import Message

Messages = tuple[Message, ...]


def asking(text: str, *, ratio_mode: Literal["behaviour", "relabel"]) -> Opening:
    """`text` behind the last user message; trained under the environment's own prompt."""

    def rewrite(first: Messages) -> Messages:
        last = max((i for i, m in enumerate(first) if m.role == "user"), default=len(first) - 1)
        asked = replace(first[last], content=first[last].content + text)
        return (*first[:last], asked, *first[last + 1 :])

    return Opening(rewrite, train="plain", ratio_mode=ratio_mode)


def instructing(text: str, *, ratio_mode: Literal["behaviour", "relabel"]) -> Opening:
    """`text` as the system message, or before the environment's; trained without it."""

    def rewrite(first: Messages) -> Messages:
        if first and first[0].role == "system":
            own = replace(first[0], content=f"{text}\n\n{first[0].content}")
            return (own, *first[1:])
        return (Message("system", text), *first)

    return Opening(rewrite, train="plain", ratio_mode=ratio_mode)


__all__ = ["asking", "instructing"]
