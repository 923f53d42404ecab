"""Which request goes on with which row: conversations compared as text, rows grown as ids.

A request whose messages repeat a known conversation and add to it goes on in that row; one that goes
back to an earlier turn begins a row whose prompt is exactly those ids; any other one is rendered anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from agentrl.serve.gateway.wire import ChatRequest, OfferedTool
from agentrl.transcript import Transcript
from agentrl.types import Message


@dataclass(frozen=True, slots=True)
class Mark:
    """The end of a turn."""

    n_said: int
    """Messages up to it, the turn's own included."""
    n_tokens: int
    """Tokens up to it."""
    text: str
    """What the model wrote, whole."""
    ended: bool
    """It wrote its own end-of-turn id."""


@dataclass(slots=True)
class Row:
    """One growing context and the conversation that the client knows of it."""

    transcript: Transcript
    tools: tuple[OfferedTool, ...]
    said: list[Message] = field(default_factory=list[Message])
    marks: list[Mark] = field(default_factory=list[Mark])
    busy: bool = False
    """A turn is being written."""


class Place(NamedTuple):
    """Where a request's new messages follow."""

    row: Row
    mark: Mark

    @property
    def last(self) -> bool:
        """The row can grow here."""
        return self.mark is self.row.marks[-1] and not self.row.busy


def place_of(rows: Iterable[Row], request: ChatRequest) -> Place | None:
    """The longest known conversation that the request adds to; None when there is none.

    What is added holds no assistant message: those are the policy's to write.
    """
    found: Place | None = None
    for row in rows:
        if row.tools != request.tools:
            continue
        shared = _shared(row.said, request.messages)
        for mark in row.marks:
            if mark.n_said > shared or not _answers(request.messages[mark.n_said :]):
                continue
            place = Place(row, mark)
            if found is None or _rank(place) > _rank(found):
                found = place
    return found


def _rank(place: Place) -> tuple[int, bool]:
    return place.mark.n_said, place.last


def _answers(added: Sequence[Message]) -> bool:
    return bool(added) and all(message.role != "assistant" for message in added)


def _shared(said: Sequence[Message], sent: Sequence[Message]) -> int:
    """How many messages agree from the start."""
    for n, (ours, theirs) in enumerate(zip(said, sent, strict=False)):
        if not same(ours, theirs):
            return n
    return min(len(said), len(sent))


def same(ours: Message, theirs: Message) -> bool:
    """Whether a client repeats a message: blanks around it, and thinking, may have been dropped."""
    return (
        ours.role == theirs.role
        and ours.content.strip() == theirs.content.strip()
        and _calls(ours) == _calls(theirs)
        and (ours.call_id or "") == (theirs.call_id or "")
    )


def _calls(message: Message) -> list[tuple[str, object]]:
    return [(call.name, call.arguments) for call in message.tool_calls]


__all__ = ["Mark", "Place", "Row", "place_of", "same"]
