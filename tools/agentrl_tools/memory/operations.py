"""What a memory manager writes: ADD, UPDATE, DELETE, NOOP, as JSON or as lines.

JSON after Mem0, as Memory-R1 (arXiv:2508.19828, appendix) prompts for it:

    {"memory": [{"id": "1", "text": "has dogs Buddy and Scout", "event": "UPDATE"}]}

or lines, for models with few tokens to spare: `ADD text`, `UPDATE 1 text`, `DELETE 1`, `NOOP`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from agentrl.errors import ParseError, ToolError
from agentrl_tools.memory.bank import Entry, MemoryBank

Event: TypeAlias = Literal["ADD", "UPDATE", "DELETE", "NOOP"]
EVENTS: Mapping[str, Event] = {
    "ADD": "ADD",
    "UPDATE": "UPDATE",
    "DELETE": "DELETE",
    "NOOP": "NOOP",
    "NONE": "NOOP",  # Mem0's word for it
}

MAX_OPERATIONS = 64
"""Of one turn; more are not read."""

_LINE = re.compile(r"(ADD|UPDATE|DELETE|NOOP|NONE)\b[ \t]*(.*)")
_ID = re.compile(r"(\d{1,18})\b[ \t]*(.*)")
_SHAPE = '{"memory": [{"id": "1", "text": "...", "event": "ADD|UPDATE|DELETE|NONE"}]}'


@dataclass(frozen=True, slots=True)
class Operation:
    """One change of the bank, as it was asked for."""

    event: Event
    id: int | None = None
    """Which memory; None for ADD and NOOP."""
    text: str = ""

    @property
    def line(self) -> str:
        """How it is written as a line; `parse_operations(op.line) == (op,)`."""
        return " ".join(
            [self.event, *([str(self.id)] if self.id is not None else []), self.text]
        ).strip()


@dataclass(frozen=True, slots=True)
class Applied:
    """What an operation did."""

    operation: Operation
    valid: bool
    """False when it named an unknown id or a text that does not fit: then nothing changed."""
    told: str
    """One sentence for the model."""


def apply(bank: MemoryBank, operation: Operation) -> Applied:
    """Carry one operation out; an invalid one changes nothing and says what is wrong."""
    try:
        return Applied(operation, True, _carried_out(bank, operation))
    except ToolError as error:
        return Applied(operation, False, str(error))


def _carried_out(bank: MemoryBank, operation: Operation) -> str:
    if operation.event == "NOOP":
        return "Nothing changed."
    if operation.event == "ADD":
        return f"Added memory {bank.add(operation.text).id}."
    if operation.id is None:
        raise ToolError(f"{operation.event} needs the id of a memory.")
    if operation.event == "UPDATE":
        return f"Updated memory {bank.update(operation.id, operation.text).id}."
    return f"Deleted memory {bank.delete(operation.id).id}."


def parse_operations(text: str) -> tuple[Operation, ...]:
    """Read a manager's turn, in either form.

    Raises ParseError, written for the model, when nothing can be read or an item is malformed; whoever
    calls counts that as one invalid NOOP.
    """
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if lines and _LINE.match(lines[0]):
        return tuple(_of_line(line) for line in lines[:MAX_OPERATIONS])
    return tuple(_of_item(item) for item in _items(text)[:MAX_OPERATIONS])


def as_json(operations: Iterable[Operation]) -> str:
    """The turn that asks for `operations`, in the JSON form."""
    items = [_item(operation) for operation in operations]
    return json.dumps({"memory": items}, ensure_ascii=False)


def as_lines(operations: Iterable[Operation]) -> str:
    """The turn that asks for `operations`, a line each."""
    return "\n".join(operation.line for operation in operations)


def listed(entries: Iterable[Entry]) -> str:
    """Memories for a model to read, a line each: `id text`."""
    return "\n".join(f"{entry.id} {entry.text}" for entry in entries)


def _item(operation: Operation) -> Mapping[str, str]:
    named = {} if operation.id is None else {"id": str(operation.id)}
    return {**named, "text": operation.text, "event": operation.event}


def _of_line(line: str) -> Operation:
    found = _LINE.match(line)
    if found is None:
        raise ParseError(f"{line[:40]!r} is not ADD text, UPDATE id text, DELETE id or NOOP.")
    event, rest = EVENTS[found[1]], found[2].strip()
    if event in ("ADD", "NOOP"):
        return Operation(event, None, rest if event == "ADD" else "")
    numbered = _ID.match(rest)
    if numbered is None:
        raise ParseError(f"{event} needs the id of a memory: {event} 1 ...")
    return Operation(event, int(numbered[1]), numbered[2].strip() if event == "UPDATE" else "")


def _items(text: str) -> Sequence[object]:
    """The list of operations in the first JSON value of `text`."""
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)
    if start < 0:
        raise ParseError(f"There is no operation. Write {_SHAPE}")
    try:
        value: Any = json.JSONDecoder().raw_decode(text, start)[0]
    except (ValueError, RecursionError) as error:
        raise ParseError(f"The JSON cannot be read: {error}. Write {_SHAPE}") from None
    if isinstance(value, dict):
        node = cast("dict[str, Any]", value)
        value = node.get("memory", [node])
    if not isinstance(value, list):
        raise ParseError(f"The operations are not a list. Write {_SHAPE}")
    return cast("list[object]", value)


def _of_item(item: object) -> Operation:
    node: Mapping[str, object] = (
        cast("Mapping[str, object]", item) if isinstance(item, Mapping) else dict[str, object]()
    )
    event = EVENTS.get(str(node.get("event", "")).upper())
    if event is None:
        raise ParseError(f"An operation's event is ADD, UPDATE, DELETE or NONE. Write {_SHAPE}")
    text = node.get("text", "")
    if not isinstance(text, str):
        raise ParseError("An operation's text is a string.")
    if event in ("ADD", "NOOP"):
        return Operation(event, None, text if event == "ADD" else "")
    return Operation(event, _id_of(node.get("id")), text if event == "UPDATE" else "")


def _id_of(value: object) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not _ID.fullmatch(text):
        raise ParseError(f"{value!r} is no id of a memory; copy the number in front of it.")
    return int(text)


__all__ = [
    "EVENTS",
    "Applied",
    "Event",
    "Operation",
    "apply",
    "as_json",
    "as_lines",
    "listed",
    "parse_operations",
]
