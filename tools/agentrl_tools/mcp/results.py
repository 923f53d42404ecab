"""What the model reads of an MCP result."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from agentrl.types import ToolResult
from agentrl_tools.clip import clip_middle

if TYPE_CHECKING:
    from mcp.types import CallToolResult, ContentBlock

NOTHING = "(no result)"


def as_result(found: CallToolResult, max_chars: int) -> ToolResult:
    """Texts as they are, structured data as JSON when there is no text; the rest described.

    A tool's own failure (`isError`) is an execution fault with the tool's words.
    """
    parts = [_shown(block) for block in found.content]
    if not parts and found.structured_content is not None:
        parts = [json.dumps(found.structured_content, ensure_ascii=False)]
    clipped = clip_middle("\n".join(part for part in parts if part) or NOTHING, max_chars)
    return ToolResult(
        call_id="",
        content=clipped.text,
        error="execution" if found.is_error else None,
        truncated=clipped.truncated,
    )


def _shown(block: ContentBlock) -> str:
    match block.type:
        case "text":
            return block.text
        case "image" | "audio":
            size = len(block.data) * 3 // 4 - block.data[-2:].count("=")
            return f"[{block.type}: {block.mime_type}, {size} bytes, not shown]"
        case "resource_link":
            return f"[resource {block.name}: {block.uri}]"
        case "resource":
            inside = block.resource
            text = getattr(inside, "text", None)
            return text if isinstance(text, str) else f"[resource {inside.uri}, not shown]"


__all__ = ["as_result"]
