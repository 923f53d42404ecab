"""Turns in the Hermes format, as experts and random players of tool environments write them."""

from __future__ import annotations

import json

from agentrl.types import JsonValue


def call_turn(name: str, **arguments: JsonValue) -> str:
    """A turn that makes one call."""
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


def answer_turn(answer: str) -> str:
    """A turn that answers in the answer tag."""
    return f"<answer>{answer}</answer>"
