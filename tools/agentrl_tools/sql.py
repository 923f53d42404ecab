"""The SQL tool: read-only SQLite, run by code in the episode's sandbox and under its limits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import final

from agentrl.context import Context
from agentrl.errors import ToolError, UserError
from agentrl.sandbox import Sandbox
from agentrl.types import JsonValue, ToolResult
from agentrl_tools.clip import clip_middle
from agentrl_tools.sql_session import Database, shown

CELL_CHARS = 100
"""Longest cell that is shown whole."""


@final
class SqlTool:
    """Runs one SELECT and returns its rows; everything that would change the database is refused.

    The sandbox is leased at the first call.
    """

    name = "sql"
    parallel = False

    def __init__(
        self,
        *,
        database: str | None = None,
        script: str | None = None,
        max_rows: int = 20,
        max_chars: int = 1000,
        timeout_s: float = 5.0,
    ) -> None:
        """Say what is asked and how much of it is shown.

        Args:
            database: path of an SQLite file.
            script: instead, SQL statements that make the database; an environment gives another
                at `reset`.
            max_rows: rows of one answer.
            max_chars: budget of one answer.
            timeout_s: seconds one query may take.

        Raises UserError on a file that cannot be read, or on both at once.
        """
        if database is not None and script is not None:
            raise UserError("the sql tool takes a database or a script, not both")
        if max_rows < 1 or max_chars < 2 or timeout_s <= 0:
            raise UserError("the sql tool needs max_rows >= 1, max_chars >= 2 and timeout_s > 0")
        content = script if database is None else _file(database)
        self._database = None if content is None else Database(content)
        self._max_rows = max_rows
        self._max_chars = max_chars
        self._timeout_s = timeout_s
        self._ctx: Context | None = None
        self._sandbox: Sandbox | None = None

    @property
    def description(self) -> str:
        """Addressed to the model."""
        return (
            "Runs one SQLite SELECT on the task's database and returns at most "
            f"{self._max_rows} rows. The database cannot be changed."
        )

    @property
    def schema(self) -> Mapping[str, JsonValue]:
        """One argument, `query`."""
        query = {
            "type": "string",
            "description": "A SELECT statement; sqlite_master tells the tables.",
            "examples": ["SELECT name, sql FROM sqlite_master"],
        }
        return {"type": "object", "properties": {"query": query}, "required": ["query"]}

    def give(self, database: Database) -> None:
        """The database of the next episode."""
        self._database = database

    async def open(self, ctx: Context) -> None:
        """Remember where to lease a sandbox."""
        self._ctx = ctx

    async def __call__(self, **arguments: JsonValue) -> ToolResult:
        """Rows of `query`. Raises ToolError for the query's fault, SandboxError for the box's."""
        query = str(arguments["query"])
        if not query.strip():
            raise ToolError("There is no query to run.")
        if self._database is None:
            raise ToolError("There is no database in this task.")
        if self._ctx is None:
            raise RuntimeError("open() the sql tool before calling it")
        if self._sandbox is None:
            self._sandbox = await self._ctx.lease_sandbox()
        rows = await self._database.ask(
            self._sandbox,
            query,
            max_rows=self._max_rows,
            max_cell=CELL_CHARS,
            timeout_s=self._ctx.remaining_s(self._timeout_s),
        )
        clipped = clip_middle(shown(rows), self._max_chars)
        return ToolResult("", clipped.text, truncated=clipped.truncated or rows.more)

    async def fork(self, n: int) -> list[SqlTool]:
        """Copies that ask the same database, in the sandboxes they will be opened with."""
        made = [
            SqlTool(max_rows=self._max_rows, max_chars=self._max_chars, timeout_s=self._timeout_s)
            for _ in range(n)
        ]
        for tool in made:
            tool._database = self._database
        return made

    async def close(self) -> None:
        """Let go of the lease; the episode that granted it closes it."""
        self._sandbox = None
        self._ctx = None


def _file(path: str) -> bytes:
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"the database {path} cannot be read: {error.strerror}") from None
    if not raw.startswith(b"SQLite format 3\x00"):
        raise UserError(f"{path} is no SQLite file; give one, or statements as `script`")
    return raw
