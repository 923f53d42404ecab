"""How a conversation opens: the environment's first messages plus the protocol's instructions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentrl.chat.base import Renderer, ToolProtocol
from agentrl.chat.markup import with_system
from agentrl.tool import Tool
from agentrl.transcript import Int32Array
from agentrl.types import Message


@dataclass(frozen=True, slots=True)
class Opening:
    """What a renderer is given first."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    """Tools that the renderer's own template describes; empty when the protocol does."""


def open_conversation(
    protocol: ToolProtocol, messages: Sequence[Message], tools: Sequence[Tool] = ()
) -> Opening:
    """Put the protocol's instructions into the system message, or leave tools to the template."""
    instructions = protocol.tool_prompt(tools)
    if not instructions:
        return Opening(tuple(messages), tuple(tools))
    return Opening(with_system(messages, instructions), ())


def opening_ids(
    renderer: Renderer,
    protocol: ToolProtocol,
    messages: Sequence[Message],
    tools: Sequence[Tool] = (),
) -> Int32Array:
    """PROMPT ids of a fresh episode."""
    opening = open_conversation(protocol, messages, tools)
    return renderer.prompt_ids(opening.messages, opening.tools)


__all__ = ["Opening", "open_conversation", "opening_ids"]
