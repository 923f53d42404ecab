"""Questions over generated tables, answered with a table tool or Python, after TaTToo.

Every table is fiction, so looking is the only way to know. The episode ends at the first turn without
a call, or at a call of `finish`: reward 1 when the answer is exactly right, else 0. As `verify` the model
labels the steps of a proposed solution instead, and earns the share it labels right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from random import Random
from typing import Literal, cast, final

from agentrl.env import Action, Observation, StepInfo, StepResult
from agentrl.errors import UserError
from agentrl.seeds import derive
from agentrl.tool import Tool
from agentrl.types import JsonValue, Message, Task, ToolCall, ToolResult
from agentrl.verify.extract import extract_answer
from agentrl_envs.families.base import Split
from agentrl_envs.fiction import invented
from agentrl_envs.hermes_turns import answer_turn, call_turn
from agentrl_envs.tables.questions import KINDS, STEPS, Asker, Call, Question, right
from agentrl_envs.tables.steps import ASK as ASK_LABELS
from agentrl_envs.tables.steps import Solution, propose, read_labels, share_right
from agentrl_envs.tables.world import Size, World, make_world
from agentrl_envs.tool_env import ToolEnv
from agentrl_tools.finish import FinishTool
from agentrl_tools.python import PythonTool
from agentrl_tools.table import TableTool
from agentrl_tools.table_data import Table, number, table_of

Offer = Literal["table", "python", "both", "none"]
LEVELS = {
    1: Size(rows=4, columns=4, distractors=0),
    2: Size(rows=8, columns=6, distractors=2),
    3: Size(rows=24, columns=7, distractors=5),
}
"""Difficulties: a level asks questions of at most as many steps as its number."""
FILE = "table.csv"
"""Where Python finds the table."""
ASK = "Give the answer alone, inside <answer> and </answer>."
_WRITE_S = 30.0
_WRITE = (
    "import csv, os\n"
    f"if {{anew}} or not os.path.exists({FILE!r}):\n"
    f"    with open({FILE!r}, 'w', newline='') as file:\n"
    "        csv.writer(file).writerows({rows!r})"
)
_READ = (
    "import csv\nfrom fractions import Fraction\n"
    f"rows = list(csv.DictReader(open({FILE!r}, newline='')))\n"
    "by = {{r[{key!r}]: r for r in rows}}\n"
    "number = lambda text: Fraction(text.replace(',', ''))\n"
    "answer = {code}\nprint(answer if isinstance(answer, str) else float(answer))"
)


@final
class Tables(ToolEnv):
    """Look-ups, filters, sums and extremes over fictional tables, by tool or Python."""

    protocol = "hermes"
    expert_floor = 1.0
    random_ceiling = 0.1

    def __init__(
        self,
        *,
        tools: Offer = "table",
        role: Literal["solve", "verify"] = "solve",
        finish: bool = False,
        show: Literal["columns", "table"] | None = None,
        kinds: tuple[str, ...] | None = None,
        levels: tuple[int, ...] = (1, 2, 3),
        rows: int | None = None,
        columns: int | None = None,
        distractors: int | None = None,
        max_calls: int = 8,
        call_s: float = 30.0,
        observation_chars: int = 1000,
    ) -> None:
        """Make one episode's environment.

        Args:
            tools: the `table` tool, `python` with the table in `table.csv`, `both`, or `none`.
            role: `solve` answers questions; `verify` labels the steps of proposed solutions, as
                the reward `tattoo` wants it.
            finish: whether a `finish` tool may carry the answer instead of the answer tag.
            show: what the question shows: the table's `columns` alone, so that its cells have to
                be looked up, or the whole `table`; None for columns with tools, else table.
            kinds: kinds of questions to draw from; None for all.
            levels: difficulties to draw from, of 1, 2 and 3: rows x columns x steps.
            rows: rows of every table, instead of the level's.
            columns: columns a question may use, instead of the level's, from 3 to 8.
            distractors: look-alike columns beside them, instead of the level's.
            max_calls: calls per episode.
            call_s: seconds one call may take.
            observation_chars: budget of one result.

        Raises UserError on a kind or level that does not exist, or a size out of range.
        """
        offered: list[Tool] = []
        if tools in ("table", "both"):
            offered.append(TableTool(max_chars=observation_chars))
        if tools in ("python", "both"):
            offered.append(PythonTool(max_chars=observation_chars))
        if finish:
            offered.append(FinishTool(what="The answer alone: a number or a name."))
        super().__init__(offered, max_calls=max_calls, call_s=call_s)
        self.offer: Offer = tools
        self.role = role
        self._anew = True  # the sandbox may hold the table of an episode before
        if role == "verify":
            # Steps are right or wrong by the toss of a coin.
            self.random_ceiling = 0.6
        self.show = show or ("table" if tools == "none" else "columns")
        if tools == "none" and self.show == "columns":
            raise UserError("env.show=columns without tools leaves nothing to read; show the table")
        self._sizes = {level: _size(level, rows, columns, distractors) for level in levels}
        self._kinds = _kinds(kinds, tuple(levels))

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Hand the table to the tools."""
        table = _table_of(task)
        for tool in self.tools:
            if isinstance(tool, TableTool):
                tool.give(table)
        self._anew = True
        return await super().reset(task, seed=seed)

    async def _call(self, call: ToolCall) -> ToolResult:
        """Python finds the table in its folder, after a restart of the interpreter too."""
        if call.name == "python" and self.offer in ("python", "both"):
            table = _table_of(self.task)
            sandbox = await self._ctx.lease_sandbox()
            rows = [list(row) for row in (table.columns, *table.rows)]
            cell = _WRITE.format(rows=rows, anew=self._anew)
            await sandbox.run(f"exec({cell!r}, {{}})", timeout_s=_WRITE_S)
            self._anew = False
        return await super()._call(call)

    def first_messages(self, task: Task) -> Observation:
        """The question, and what of the table is shown."""
        table = _table_of(task)
        if self.show == "table":
            shown = f"The table:\n{table.text()}"
        else:
            shown = (
                f"The table has {len(table.rows)} rows and the columns {', '.join(table.columns)}."
            )
        if self.offer in ("python", "both"):
            shown += f" Python finds it in {FILE}."
        asked = ASK_LABELS if "labels" in task.metadata else ASK
        return (Message("user", f"{shown}\n\n{task.question}\n{asked}"),)

    async def judge(self, action: Action) -> StepResult:
        """Check the answer tag, or else the last box, or the labels; then end."""
        if "labels" in self.task.metadata:
            return await self.answered(action.text)
        prediction = extract_answer(action.text, ("answer", "boxed"))
        if prediction is None:
            return StepResult((), 0.0, True, False, StepInfo())
        return await self.answered(prediction)

    async def answered(self, answer: str) -> StepResult:
        """Compare and end."""
        if "labels" in self.task.metadata:
            return self._labelled(read_labels(answer))
        gold, kind = str(self.task.answer), self.task.metadata.get("answer_kind")
        if kind is None:
            kind = "name" if number(gold) is None else "number"
        correct = right(gold, str(kind), answer)
        return StepResult((), float(correct), True, False, StepInfo(answer=answer))

    def _labelled(self, said: list[int]) -> StepResult:
        gold = [int(label) for label in cast(list[int], self.task.metadata["labels"])]
        told = " ".join(f"{label:+d}" for label in said)
        return StepResult((), share_right(gold, said), True, False, StepInfo(answer=told))

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """An endless stream; no name of one split is in a table of the other.

        Raises UserError on a split other than train and test.
        """
        if split not in ("train", "test"):
            raise UserError(f"tables has the splits train and test, not {split!r}")
        return self._stream(Random(derive("tables", seed, split)), split)

    def _stream(self, rng: Random, split: Split) -> Iterator[Task]:
        while True:
            level = rng.choice(sorted(self._sizes))
            world = make_world(rng, split, self._sizes[level])
            fitting = [kind for kind in self._kinds if STEPS[kind] <= level]
            question = KINDS[rng.choice(fitting)](Asker(rng, world))
            if question is not None:
                verify = self.role == "verify"
                proposed = propose(rng, world.table, question) if verify else None
                yield _task(world, question, level, proposed)

    def expert(self, task: Task, *, seed: int) -> Iterable[str]:
        """The shortest calls, then the answer. Raises UserError for a task of another source."""
        if "calls" not in task.metadata:
            raise UserError(f"task {task.id} was not generated; tables has no expert for it")
        if self.offer == "python":
            key = _table_of(task).columns[0]
            yield call_turn("python", code=_READ.format(key=key, code=task.metadata["code"]))
        elif self.offer != "none":
            for call in cast(list[Call], task.metadata["calls"]):
                yield call_turn("table", **call)
        finishing = any(isinstance(tool, FinishTool) for tool in self.tools)
        answer = _labelled(task) if "labels" in task.metadata else str(task.answer)
        if "labels" in task.metadata and not finishing:
            yield answer
            return
        yield call_turn("finish", answer=answer) if finishing else answer_turn(answer)

    def random_turn(self, rng: Random) -> str:
        """A blind call, or an answer: a small or large number, or an invented name."""
        if self.tools and rng.random() < 0.3:
            return call_turn("table", operation="cell", row=invented(rng), column="Price")
        if self.role == "verify":
            labels = (rng.choice(("+1", "-1")) for _ in range(rng.randint(2, 4)))
            return "".join(f"<label>{label}</label>" for label in labels)
        number = str(rng.choice((rng.randint(0, 9), rng.randint(0, 9999))))
        return answer_turn(rng.choice((number, invented(rng))))


def _task(world: World, question: Question, level: int, proposed: Solution | None) -> Task:
    text, asked, answer = world.table.text(), question.text, question.answer
    metadata: dict[str, JsonValue] = {
        "table": text,
        "family": question.kind,
        "level": level,
        "steps": question.steps,
        "rows": len(world.table.rows),
        "columns": len(world.table.columns),
        "answer_kind": question.answer_kind,
        "calls": list(question.calls),
        "code": question.code,
    }
    if proposed is not None:
        metadata |= {"labels": list(proposed.labels), "checks": list(proposed.checks)}
        asked = f"Question: {asked}\nProposed solution:\n{proposed.text}"
        answer = " ".join(f"{label:+d}" for label in proposed.labels)
    digest = blake2b(f"{text}\x1f{asked}".encode(), digest_size=6).hexdigest()
    return Task(f"{question.kind}/{level}/{digest}", asked, answer, metadata)


def _labelled(task: Task) -> str:
    """What a perfect verifier writes: what the table says, then the label, per step."""
    checks = cast(list[str], task.metadata["checks"])
    labels = cast(list[int], task.metadata["labels"])
    lines = zip(checks, labels, strict=True)
    return "\n".join(
        f"Step {i}: the table says {check}. <label>{label:+d}</label>"
        for i, (check, label) in enumerate(lines, 1)
    )


def _table_of(task: Task) -> Table:
    value = task.metadata.get("table")
    if value is None or task.answer is None:
        raise UserError(f"task {task.id} needs an answer and metadata `table`, the table as text")
    return table_of(value)


def _size(level: int, rows: int | None, columns: int | None, distractors: int | None) -> Size:
    if level not in LEVELS:
        raise UserError(f"env.levels: choose some of 1, 2 and 3, not {level}")
    size = LEVELS[level]
    made = Size(
        size.rows if rows is None else rows,
        size.columns if columns is None else columns,
        size.distractors if distractors is None else distractors,
    )
    if not (2 <= made.rows <= 1000 and 3 <= made.columns <= 8 and 0 <= made.distractors <= 30):
        raise UserError("tables need rows from 2 to 1000, columns 3 to 8, distractors 0 to 30")
    return made


def _kinds(kinds: tuple[str, ...] | None, levels: tuple[int, ...]) -> tuple[str, ...]:
    unknown = [kind for kind in kinds or () if kind not in KINDS]
    chosen = tuple(kinds or KINDS)
    if unknown:
        raise UserError(f"env.kinds: {unknown[0]!r} is none; choose among {', '.join(KINDS)}")
    if not levels or min(STEPS[kind] for kind in chosen) > min(levels):
        raise UserError("env.kinds and env.levels: a level asks kinds of at most as many steps")
    return chosen


__all__ = ["Tables"]
