"""Questions over generated SQLite databases: the answer is a query, judged by what it returns.

The gold and the predicted query are executed in the episode's sandbox on the database that the model
may ask, and on a twin with the same names and other numbers: an answer written into the query
(`SELECT 42`) is right on the first and wrong on the second. Reward 1 when both agree, else 0.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Literal, final

from agentrl.env import Action, Observation, StepInfo, StepResult
from agentrl.errors import ToolError, UserError
from agentrl.sandbox import Sandbox
from agentrl.seeds import derive
from agentrl.tool import Tool
from agentrl.types import JsonValue, Message, Task
from agentrl.verify.extract import extract_answer
from agentrl_envs.families.base import Split
from agentrl_envs.fiction import invented
from agentrl_envs.hermes_turns import answer_turn, call_turn
from agentrl_envs.sql_qa.queries import KINDS, LEVELS, Query
from agentrl_envs.sql_qa.results import same_results
from agentrl_envs.sql_qa.schemas import DOMAINS, make_cast, schema_of, script
from agentrl_envs.tool_env import ToolEnv
from agentrl_tools.finish import FinishTool
from agentrl_tools.sql import SqlTool
from agentrl_tools.sql_session import Database, Rows, TooSlow

MEMBERS = {1: 6, 2: 12, 3: 24}
"""Rows of the main table at each level."""
MAX_ROWS = 2_000
"""Of a result; a prediction with more rows is wrong, a gold query with more has no verdict."""
ASK = "Answer with one SQLite SELECT inside <answer> and </answer>."
_FENCE = re.compile(r"\A\s*```[a-zA-Z]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)


@final
class SqlQA(ToolEnv):
    """Questions answered by an SQL query, judged by the rows it returns."""

    protocol = "hermes"
    uses_sandbox = True
    expert_floor = 1.0
    random_ceiling = 0.05

    def __init__(
        self,
        *,
        tools: Literal["sql", "none"] = "sql",
        finish: bool = False,
        show_schema: bool = True,
        kinds: tuple[str, ...] | None = None,
        levels: tuple[int, ...] = (1, 2, 3),
        members: int | None = None,
        max_calls: int = 8,
        call_s: float = 30.0,
        query_s: float = 5.0,
        max_rows: int = 20,
        observation_chars: int = 1000,
    ) -> None:
        """Make one episode's environment.

        Args:
            tools: `sql` lets the model run queries before it answers.
            finish: whether a `finish` tool may carry the query instead of the answer tag.
            show_schema: whether the question shows the tables; without, they have to be found.
            kinds: kinds of questions to draw from; None for all.
            levels: difficulties to draw from, of 1, 2 and 3: tables, joins, subqueries.
            members: rows of the main table, instead of the level's.
            max_calls: calls per episode.
            call_s: seconds one call may take, the database's making included.
            query_s: seconds one query may take.
            max_rows: rows that a call shows.
            observation_chars: budget of one result.

        Raises UserError on a kind or level that does not exist, or a size out of range.
        """
        offered: list[Tool] = []
        if tools == "sql":
            offered.append(
                SqlTool(max_rows=max_rows, max_chars=observation_chars, timeout_s=query_s)
            )
        if finish:
            offered.append(FinishTool(what="One SQLite SELECT."))
        super().__init__(offered, max_calls=max_calls, call_s=call_s)
        if query_s <= 0 or (members is not None and not 4 <= members <= 400):
            raise UserError("sql_qa needs query_s > 0 and members from 4 to 400")
        self._query_s = query_s
        self._show = show_schema
        self._members = members
        self._kinds = _kinds(kinds, levels)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Hand the database to the tool."""
        for tool in self.tools:
            if isinstance(tool, SqlTool):
                tool.give(_databases(task)[0])
        return await super().reset(task, seed=seed)

    def first_messages(self, task: Task) -> Observation:
        """The schema, unless it has to be found, and the question."""
        if not task.answer:
            raise UserError(f"task {task.id} has no gold query; sql_qa needs one to compare with")
        made = task.metadata.get("database")
        shown = schema_of(made) if isinstance(made, str) else str(task.metadata.get("schema", ""))
        before = f"The database:\n{shown}\n\n" if self._show and shown else ""
        order = " The order of the rows counts." if task.metadata.get("ordered") is True else ""
        return (Message("user", f"{before}{task.question}{order}\n{ASK}"),)

    async def judge(self, action: Action) -> StepResult:
        """Run the query of the answer tag; then end."""
        answer = extract_answer(action.text, ("answer",))
        if answer is None:
            return StepResult((), 0.0, True, False, StepInfo())
        return await self.answered(answer)

    async def answered(self, answer: str) -> StepResult:
        """Compare results and end. Raises UserError when the gold query itself is wrong."""
        fence = _FENCE.match(answer)
        query = fence[1] if fence else answer
        correct = await self._agrees(query)
        excluded = "unverified" if correct is None else None
        info = StepInfo(answer=query, excluded=excluded)
        return StepResult((), 1.0 if correct else 0.0, True, False, info)

    async def _agrees(self, query: str) -> bool | None:
        """Whether `query` returns what the gold query does, on every database of the task.

        None when that cannot be told: the gold query was too slow, or its result too long.
        """
        sandbox = await self._ctx.lease_sandbox()
        ordered = self.task.metadata.get("ordered") is True
        for database in _databases(self.task):
            try:
                found = await self._rows(database, sandbox, query)
            except ToolError:  # a refused, wrong or slow query is a wrong answer
                return False
            try:
                gold = await self._rows(database, sandbox, str(self.task.answer))
            except TooSlow:
                return None
            except ToolError as error:
                raise UserError(f"the gold query of task {self.task.id} fails: {error}") from None
            if gold.more:
                return None
            if not same_results(gold, found, ordered=ordered):
                return False
        return True

    async def _rows(self, database: Database, sandbox: Sandbox, query: str) -> Rows:
        return await database.ask(sandbox, query, max_rows=MAX_ROWS, timeout_s=self._query_s)

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """An endless stream; no name of one split is in a database of the other.

        Raises UserError on a split other than train and test.
        """
        if split not in ("train", "test"):
            raise UserError(f"sql_qa has the splits train and test, not {split!r}")
        return self._stream(Random(derive("sql_qa", seed, split)), split)

    def _stream(self, rng: Random, split: Split) -> Iterator[Task]:
        while True:
            kind = rng.choice(self._kinds)
            level = LEVELS[kind]
            members = self._members or MEMBERS[level]
            cast = make_cast(rng, split, members=members, tables=level)
            query = KINDS[kind](rng, cast)
            made = (script(rng, cast), script(rng, cast))
            if _tells_apart(query, made):
                yield _task(kind, level, query, made)

    def expert(self, task: Task, *, seed: int) -> Iterable[str]:
        """Tries the gold query, then answers with it."""
        gold = str(task.answer)
        if any(isinstance(tool, SqlTool) for tool in self.tools):
            yield call_turn("sql", query=gold)
        finishing = any(isinstance(tool, FinishTool) for tool in self.tools)
        yield call_turn("finish", answer=gold) if finishing else answer_turn(gold)

    def random_turn(self, rng: Random) -> str:
        """A blind query: a constant, a count or a column of a table that may not exist."""
        domain = rng.choice(DOMAINS)
        table = rng.choice((domain.group, domain.member, domain.event))
        column = rng.choice(("name", "id", domain.first, domain.second))
        query = rng.choice(
            (
                f"SELECT {rng.randint(0, 20)}",
                f"SELECT '{invented(rng)}'",
                f"SELECT count(*) FROM {table}",
                f"SELECT {column} FROM {table}",
            )
        )
        if self.tools and rng.random() < 0.2:
            return call_turn("sql", query=query)
        return answer_turn(query)


def _tells_apart(query: Query, scripts: tuple[str, str]) -> bool:
    """Whether the gold query returns rows on both databases, and not the same ones.

    The query is this file's own, on data of this package's making, so it runs here.
    """
    results: list[list[tuple[object, ...]]] = []
    for made in scripts:
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.executescript(made)
            results.append(connection.execute(query.sql).fetchall())
    first, second = results
    return bool(first) and bool(second) and sorted(map(repr, first)) != sorted(map(repr, second))


def _task(kind: str, level: int, query: Query, made: tuple[str, str]) -> Task:
    digest = blake2b(f"{made[0]}\x1f{query.text}".encode(), digest_size=6).hexdigest()
    metadata: dict[str, JsonValue] = {
        "database": made[0],
        "twin": made[1],
        "ordered": query.ordered,
        "family": kind,
        "level": level,
    }
    return Task(f"{kind}/{level}/{digest}", query.text, query.sql, metadata)


def _databases(task: Task) -> list[Database]:
    """The task's databases, the one that the model may ask first.

    `database` and `twin` are statements; `database_path` is an SQLite file instead of the first.
    """
    data = task.metadata
    path = data.get("database_path")
    found: list[Database] = []
    if isinstance(path, str):
        try:
            found.append(Database(Path(path).read_bytes()))
        except OSError as error:
            raise UserError(f"task {task.id}: {path} cannot be read: {error.strerror}") from None
    found += [Database(made) for n in ("database", "twin") if isinstance(made := data.get(n), str)]
    if not found:
        raise UserError(
            f"task {task.id} has no database; give metadata `database` (statements that make it) "
            "or `database_path` (an SQLite file)"
        )
    return found


def _kinds(kinds: tuple[str, ...] | None, levels: tuple[int, ...]) -> tuple[str, ...]:
    unknown = [kind for kind in kinds or () if kind not in KINDS]
    if unknown:
        raise UserError(f"env.kinds: {unknown[0]!r} is none; choose among {', '.join(KINDS)}")
    if not levels or not set(levels) <= set(MEMBERS):
        raise UserError(f"env.levels: choose some of 1, 2 and 3, not {list(levels)}")
    chosen = tuple(kind for kind in kinds or KINDS if LEVELS[kind] in levels)
    if not chosen:
        raise UserError("env.kinds and env.levels leave no kind of question; widen one of them")
    return chosen


__all__ = ["SqlQA"]
