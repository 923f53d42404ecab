"""What an endpoint said: pieces of a stream put together, up to the first stop string."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, cast, final

from agentrl.engine.api.endpoint import BrokenOff
from agentrl.engine.base import StopKind
from agentrl.errors import EngineError

Json: TypeAlias = "Mapping[str, Any]"


@dataclass(frozen=True, slots=True)
class Answer:
    """One finished answer."""

    text: str
    """Up to the stop string, which is part of it."""
    stop: StopKind
    found: str | None = None
    """The stop string."""
    logprobs: tuple[tuple[str, float], ...] = ()
    """Token and logprob, where the endpoint reports them."""


class Piece(NamedTuple):
    """What one event adds."""

    text: str
    logprobs: tuple[tuple[str, float], ...] = ()


@final
class AnswerReader:
    """Reads one answer from a stream's events, or from the one object of an endpoint without any."""

    def __init__(self, stop: Sequence[str], piece: Callable[[Json], Piece]) -> None:
        """piece: what a choice of an event says; it differs between the routes."""
        self._stop = tuple(s for s in stop if s)
        self._piece = piece
        self._text = ""
        self._logprobs: list[tuple[str, float]] = []
        self._finish: str | None = None
        self._found: str | None = None

    def take(self, event: Json) -> bool:
        """True once a stop string was found: the rest is not wanted."""
        for choice in cast("Sequence[Json]", event.get("choices") or ())[:1]:
            piece = self._piece(choice)
            self._text += piece.text
            self._logprobs += piece.logprobs
            self._finish = choice.get("finish_reason") or self._finish
        places = [(self._text.find(s) + len(s), s) for s in self._stop if s in self._text]
        if places:  # the one that ends first
            end, self._found = min(places)
            self._text = self._text[:end]
        return bool(places)

    def done(self) -> Answer:
        """The answer. Raises BrokenOff, or EngineError when it was held back."""
        logprobs = tuple(self._logprobs)
        if self._found is not None:
            return Answer(self._text, "stop_text", self._found, logprobs)
        if self._finish is None:
            raise BrokenOff("the answer broke off")
        if self._finish == "content_filter":
            raise EngineError("the endpoint's filter held an answer back")
        stop = "length" if self._finish == "length" else "stop_id"
        return Answer(self._text, stop, None, logprobs)


def chat_piece(choice: Json) -> Piece:
    """Of `/chat/completions`; thinking that an endpoint tells apart is not part of the answer."""
    told = cast("Json", choice.get("delta") or choice.get("message") or {})
    return Piece(str(told.get("content") or ""))


def completion_piece(choice: Json) -> Piece:
    """Of `/completions`, with the logprobs of its tokens."""
    told = cast("Json", choice.get("logprobs") or {})
    tokens = cast("Sequence[str]", told.get("tokens") or ())
    values = cast("Sequence[float | None]", told.get("token_logprobs") or ())
    pairs = tuple((t, v) for t, v in zip(tokens, values, strict=False) if v is not None)
    return Piece(str(choice.get("text") or ""), pairs)


__all__ = ["Answer", "AnswerReader", "chat_piece", "completion_piece"]
