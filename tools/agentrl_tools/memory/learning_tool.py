"""The learning memory as a tool: lessons of earlier episodes recalled, and new ones kept."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import final

from agentrl.context import Context
from agentrl.errors import ToolError, UserError
from agentrl.types import JsonValue, ToolResult
from agentrl_tools.clip import clip_middle
from agentrl_tools.memory.lessons import HISTORY, LearningMemory, Lesson

NO_LESSON = "No lesson about that."


@final
class LearningMemoryTool:
    """Lessons that outlive an episode, in a file: recall what earlier ones taught, keep new ones."""

    name = "learning_memory"
    parallel = False
    uses_sandbox = False

    def __init__(
        self,
        *,
        path: str = "runs/learning_memory.sqlite",
        update_enabled: bool = False,
        k: int = 5,
        history_limit: int = HISTORY,
        max_chars: int = 2000,
    ) -> None:
        """Make one episode's view of the file, which all episodes and runs share.

        Args:
            path: the file; it need not exist.
            update_enabled: let the model keep lessons. Off by default: with it, what an episode reads
                depends on those that ended before, so a deterministic run no longer repeats itself.
            k: lessons that `recall` returns at most.
            history_limit: versions kept of the lesson under one key.
            max_chars: budget of one result; longer ones lose their middle.
        """
        if k < 1 or max_chars < 2:
            raise UserError("learning_memory needs k >= 1 and max_chars >= 2")
        self._memory = LearningMemory(
            path, update_enabled=update_enabled, history_limit=history_limit
        )
        self.k, self.max_chars = k, max_chars

    @property
    def description(self) -> str:
        """Addressed to the model."""
        told = "Lessons from earlier tasks. `recall` lists those that share words with a text."
        if not self._memory.update_enabled:
            return told
        return f"{told} `learn` keeps a short principle under a key and replaces the one before."

    @property
    def schema(self) -> Mapping[str, JsonValue]:
        """The operation and its text; a key where lessons can be kept."""
        operations = ["recall", "learn"] if self._memory.update_enabled else ["recall"]
        key = {"type": "string", "description": "What the lesson is about (learn)."}
        properties: dict[str, JsonValue] = {
            "operation": {"type": "string", "enum": operations, "description": "What to do."},
            "text": {"type": "string", "description": "What to look for, or the lesson to keep."},
        }
        if self._memory.update_enabled:
            properties["key"] = key
        return {"type": "object", "properties": properties, "required": ["operation", "text"]}

    async def open(self, ctx: Context) -> None:
        """Nothing to open: each call opens the file."""

    async def __call__(self, **arguments: JsonValue) -> ToolResult:
        """Recall or learn. Raises ToolError on another operation, WorldFault on a locked file."""
        operation, text = str(arguments["operation"]).lower(), str(arguments["text"])
        if operation == "recall":
            found = await asyncio.to_thread(self._memory.search, text, k=self.k)
            shown = "\n".join(f"{lesson.key}: {lesson.student}" for lesson in found) or NO_LESSON
            clipped = clip_middle(shown, self.max_chars)
            return ToolResult("", clipped.text, truncated=clipped.truncated)
        if operation != "learn":
            raise ToolError(f"There is no operation {operation!r}; use recall or learn.")
        lesson = Lesson(str(arguments.get("key") or ""), text)
        kept = await asyncio.to_thread(self._memory.record, lesson)
        return ToolResult("", f"Kept under {kept.key!r}.")

    async def fork(self, n: int) -> list[LearningMemoryTool]:
        """Itself: what it holds is shared by all episodes anyway."""
        return [self] * n

    async def close(self) -> None:
        """Nothing is held between calls."""


__all__ = ["LearningMemoryTool"]
