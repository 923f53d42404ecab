"""A read-only SQLite database inside an episode's sandbox, asked from outside."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeAlias, cast

from agentrl.errors import ToolError, UserError
from agentrl.sandbox import ExecResult, Sandbox
from agentrl_tools.inside import LOAD_S, Inside, told

Cell: TypeAlias = str | int | float | bytes | None
PIECE_BYTES = 1 << 20
MAX_BYTES = 64 << 20
"""Largest database that is carried into a sandbox."""
_GRACE_S = 2.0
"""The query's own clock stops it first; the sandbox's deadline would cost the interpreter."""


class TooSlow(ToolError):
    """The query was stopped; on a busy machine that may not be its fault."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The result of a query."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    more: bool
    """True when rows were left out."""


class Database:
    """One database: text of SQL statements that make it, or the bytes of an SQLite file.

    It is carried into a session at the first query there, and again wherever it is missing. Equal
    contents are equal databases, so copies of an episode share what their sandboxes hold.
    """

    def __init__(self, content: str | bytes) -> None:
        """Raises UserError when it is too large to be carried."""
        raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        if len(raw) > MAX_BYTES:
            raise UserError(
                f"the database has {len(raw) >> 20} MB, {MAX_BYTES >> 20} at most; cut it down"
            )
        self._content = content
        self._name = blake2b(raw, digest_size=8).hexdigest()
        self._inside = Inside("sql")

    async def ask(
        self,
        sandbox: Sandbox,
        query: str,
        *,
        max_rows: int,
        timeout_s: float,
        max_cell: int = 1_000_000,
    ) -> Rows:
        """The rows of one SELECT.

        Raises ToolError, written for the model, when the query is refused, wrong or (TooSlow) slow;
        UserError when the database itself cannot be made; SandboxError when the box failed.
        """
        arguments = (self._name, query, max_rows, max_cell, timeout_s)
        for _ in range(2):
            result = await self._inside.call(
                sandbox, "query", *arguments, timeout_s=timeout_s + _GRACE_S
            )
            reply = _reply(result)
            if "missing" not in reply:
                return _read(reply, timeout_s)
            await self._load(sandbox)
        raise ToolError("The database is gone from the interpreter; run the query again.")

    async def _load(self, sandbox: Sandbox) -> None:
        if isinstance(self._content, str):
            calls = [("load_script", (self._name, self._content))]
        else:
            cuts = range(0, max(len(self._content), 1), PIECE_BYTES)
            pieces = [base64.b64encode(self._content[i : i + PIECE_BYTES]).decode() for i in cuts]
            last = len(pieces) - 1
            calls = [("load_piece", (self._name, p, i == last)) for i, p in enumerate(pieces)]
        for function, arguments in calls:
            result = await self._inside.call(sandbox, function, *arguments, timeout_s=LOAD_S)
            problem = _reply(result).get("error")
            if problem is not None:
                raise UserError(
                    f"the task's database cannot be made: {str(problem)[:200]}; mend it"
                )


def _reply(result: ExecResult) -> dict[str, object]:
    """The JSON object a call returned. Raises ToolError when it did not end well."""
    match result.status:
        case "timeout" | "cpu_limit":
            raise TooSlow("The query took too long and was stopped; ask for less.")
        case "oom":
            raise ToolError("The query took too much memory; ask for less.")
        case _:
            pass
    text = told(result)
    try:
        reply: object = json.loads(text or "")
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict):
        raise ToolError("The interpreter gave no readable result; run the query again.")
    return cast(dict[str, object], reply)


def _read(reply: dict[str, object], timeout_s: float) -> Rows:
    if "slow" in reply:
        raise TooSlow(
            f"The query took longer than {timeout_s:g} seconds and was stopped; ask for less."
        )
    if "error" in reply:
        raise ToolError(_teaching(reply))
    columns, rows = reply.get("columns"), reply.get("rows")
    if not isinstance(columns, list) or not isinstance(rows, list):
        raise ToolError("The interpreter gave no readable result; run the query again.")
    return Rows(
        tuple(str(column) for column in cast(list[object], columns)),
        tuple(_row(row) for row in cast(list[object], rows)),
        reply.get("more") is True,
    )


def _teaching(reply: dict[str, object]) -> str:
    error = str(reply["error"])[:300]
    if "refused" in reply:
        return (
            f"Only SELECT is allowed: {reply['refused']} was refused. The tables: "
            "SELECT name, sql FROM sqlite_master."
        )
    if "one statement" in error:
        return "One statement at a time: send a single SELECT."
    schema = f" The tables: {reply['schema']}." if "schema" in reply else ""
    return f"SQL error: {error}.{schema}"


def _row(row: object) -> tuple[Cell, ...]:
    cells = cast(list[object], row) if isinstance(row, list) else [row]
    return tuple(_cell(cell) for cell in cells)


def _cell(value: object) -> Cell:
    if isinstance(value, dict):
        tagged = cast(dict[str, object], value)
        if "float" in tagged:
            return float(str(tagged["float"]))
        return bytes.fromhex(str(tagged.get("blob", "")))
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)


def shown(rows: Rows) -> str:
    """Header, rows and their number, for the model."""
    lines = [" | ".join(rows.columns)]
    lines += [" | ".join(_text(cell) for cell in row) for row in rows.rows]
    count = f"{len(rows.rows)} row" + ("" if len(rows.rows) == 1 else "s")
    lines.append(f"(the first {count} of more)" if rows.more else f"({count})")
    return "\n".join(lines)


def _text(cell: Cell) -> str:
    if cell is None:
        return "NULL"
    if isinstance(cell, bytes):
        return f"x'{cell.hex()}'"
    return str(cell).replace("\n", "\\n")
