"""A request made into a row: known ids with what is new behind them, or text rendered anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agentrl.chat.base import Inline
from agentrl.chat.opening import open_conversation
from agentrl.rollout.limits import clip_text
from agentrl.rollout.parts import Parts
from agentrl.serve.gateway.rows import Mark, Place, Row
from agentrl.serve.gateway.wire import ChatRequest
from agentrl.transcript import Origin, Segment, Transcript
from agentrl.types import Message


@dataclass(frozen=True, slots=True)
class Draft:
    """A request that has found its row, not yet answered."""

    transcript: Transcript
    """The row with the request's new messages."""
    said: list[Message]
    added: Sequence[Message]
    """The new messages, tool outputs within their budget."""
    grows: Row | None = None
    """The known row that goes on; None begins another one."""
    rendered: bool = False
    """That one is rendered from text, not from known ids."""


class Drafts:
    """Makes them, in one model's chat format."""

    def __init__(self, parts: Parts) -> None:
        """parts: the renderer, the protocol and the budget of a tool's output."""
        self._parts = parts

    def draft(self, request: ChatRequest, place: Place | None) -> Draft:
        """The row that the request's new messages make, at `place` or from its text alone."""
        sent = list(request.messages)
        if place is None:
            opened, fresh = self._rendered(request)
            return Draft(fresh, sent, opened, rendered=True)
        row, mark = place
        base = row.transcript
        if not place.last:
            base = Transcript().append(Segment(Origin.PROMPT, base.token_ids[: mark.n_tokens]))
        added = [self.clipped(message) for message in sent[mark.n_said :]]
        return Draft(
            self._answered(base, mark, added),
            [*row.said[: mark.n_said], *sent[mark.n_said :]],
            added,
            row if place.last else None,
        )

    def _rendered(self, request: ChatRequest) -> tuple[Sequence[Message], Transcript]:
        """A fresh row and its messages; what was said elsewhere is retold as its prompt."""
        parts = self._parts
        retold = [self._retold(message) for message in request.messages]
        opening = open_conversation(parts.protocol, retold, request.tools)
        ids = parts.renderer.prompt_ids(opening.messages, opening.tools)
        return opening.messages, Transcript().append(Segment(Origin.PROMPT, ids))

    def _retold(self, message: Message) -> Message:
        """An assistant's calls in the protocol's words, where the template has no place for them."""
        protocol = self._parts.protocol
        if not message.tool_calls or not protocol.stops:
            return message
        try:
            calls = [protocol.call_text(call.name, call.arguments) for call in message.tool_calls]
        except ValueError:
            return message
        return replace(message, content=message.content + "".join(calls), tool_calls=())

    def _answered(self, base: Transcript, mark: Mark, added: Sequence[Message]) -> Transcript:
        """`base` followed by what answers its last turn."""
        parts = self._parts
        shown = parts.protocol.present(added, text=mark.text, ended=mark.ended)
        if isinstance(shown, Inline):
            spans = parts.renderer.inline(shown)
        else:
            spans = parts.renderer.delta(shown.messages, ended=mark.ended)
        return base.append(*(Segment(span.origin, span.token_ids) for span in spans))

    def clipped(self, message: Message) -> Message:
        """A tool's output within the budget of an observation."""
        if message.role != "tool":
            return message
        budget = self._parts.limits.observation_tokens
        text = clip_text(message.content, budget, self._parts.renderer.tokenizer)
        return message if text == message.content else replace(message, content=text)


__all__ = ["Draft", "Drafts"]
