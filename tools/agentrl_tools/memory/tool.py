"""The memory tool: one bank per episode, changed and searched by the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from agentrl.context import Context
from agentrl.errors import ToolError, UserError
from agentrl.types import JsonValue, ToolResult
from agentrl_tools.clip import clip_middle
from agentrl_tools.memory.bank import Bounds, MemoryBank
from agentrl_tools.memory.operations import EVENTS, Operation, apply, listed
from agentrl_tools.memory.vectors import load_encoder

NOTHING = "Nothing found."
_OPERATIONS = ("add", "update", "delete", "noop", "search")


@final
class MemoryTool:
    """A memory that the model writes and searches: add, update, delete, noop, search."""

    name = "memory"
    uses_sandbox = False
    description = (
        "Your memory during this task. `add` remembers a text under a new id; `update` replaces the "
        "text of an id, so merge what is still true into it; `delete` forgets an id; `noop` changes "
        "nothing; `search` lists the memories that share words with a text, each with its id."
    )
    parallel = False

    def __init__(
        self,
        *,
        k: int = 10,
        max_entries: int = 512,
        max_entry_chars: int = 1000,
        max_chars: int = 2000,
        encoder: str | None = None,
    ) -> None:
        """Make one episode's memory.

        Args:
            k: memories that a search returns at most.
            max_entries: memories that fit.
            max_entry_chars: characters of one memory.
            max_chars: budget of one result; longer ones lose their middle.
            encoder: `module:Attr` of a text encoder; search then ranks by cosine.
        """
        if min(k, max_entries, max_entry_chars) < 1 or max_chars < 2:
            raise UserError("memory needs k, max_entries, max_entry_chars >= 1 and max_chars >= 2")
        self.k, self.max_chars = k, max_chars
        self.bounds = Bounds(max_entries, max_entry_chars)
        self.encoder = encoder
        self._bank: MemoryBank | None = None

    @property
    def bank(self) -> MemoryBank:
        """The episode's memories. Raises RuntimeError before `open`."""
        if self._bank is None:
            raise RuntimeError("open() the memory tool before calling it")
        return self._bank

    @property
    def schema(self) -> Mapping[str, JsonValue]:
        """The operation, and the id and text it needs."""
        text = "What to remember (add, update) or to look for (search)."
        return {
            "type": "object",
            "properties": {
                "operation": {
                    "type": "string",
                    "enum": list(_OPERATIONS),
                    "description": "What to do.",
                },
                "id": {"type": "integer", "description": "Which memory (update, delete)."},
                "text": {"type": "string", "description": text},
            },
            "required": ["operation"],
        }

    async def open(self, ctx: Context) -> None:
        """An empty bank; a copy keeps the bank it was made with."""
        if self._bank is None:
            encoder = load_encoder(self.encoder) if self.encoder else None
            self._bank = MemoryBank(bounds=self.bounds, encoder=encoder)

    async def __call__(self, **arguments: JsonValue) -> ToolResult:
        """Run one operation. Raises ToolError that says what it needs."""
        operation = str(arguments["operation"]).lower()
        if operation not in _OPERATIONS:
            raise ToolError(f"There is no operation {operation!r}; use {', '.join(_OPERATIONS)}.")
        entry_id, text = arguments.get("id"), str(arguments.get("text") or "")
        if operation == "search":
            return self._found(text)
        asked = Operation(EVENTS[operation.upper()], _integer(entry_id), text)
        applied = apply(self.bank, asked)
        if not applied.valid:
            raise ToolError(applied.told)
        return ToolResult(call_id="", content=applied.told)

    def _found(self, text: str) -> ToolResult:
        if not text.strip():
            raise ToolError("search needs a text to look for.")
        shown = clip_middle(
            listed(self.bank.search(text, k=self.k)) or NOTHING, max(2, self.max_chars)
        )
        return ToolResult(call_id="", content=shown.text, truncated=shown.truncated)

    async def fork(self, n: int) -> list[MemoryTool]:
        """Copies with copies of the bank."""
        banks = self.bank.fork(n)
        copies = [self._fresh() for _ in range(n)]
        for copy, bank in zip(copies, banks, strict=True):
            copy._bank = bank
        return copies

    def _fresh(self) -> MemoryTool:
        return MemoryTool(
            k=self.k,
            max_entries=self.bounds.entries,
            max_entry_chars=self.bounds.chars,
            max_chars=self.max_chars,
            encoder=self.encoder,
        )

    async def close(self) -> None:
        """Forget everything."""
        if self._bank is not None:
            self._bank.close()
        self._bank = None


def _integer(value: JsonValue) -> int | None:
    return value if isinstance(value, int) else None


__all__ = ["MemoryTool"]
