"""An environment of the verifiers library, its rows as tasks and its rubric as reward."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any, cast, final
from uuid import uuid4

from agentrl.context import Context
from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.errors import UserError
from agentrl.seeds import derive
from agentrl.tool import Tool
from agentrl.types import JsonValue, Message, Role, Task, ToolCall, ToolResult
from agentrl_envs.verifiers.client import Fields, Played, Worker, WorkerLost, worker_of

_PAGE = 256
_MODELS_FAULTS = (
    "EmptyModelResponse",
    "InvalidModelResponse",
    "ModelError",
    "ToolParse",
    "ToolCall",
)
_ROLES: Mapping[str, Role] = {
    "system": "system", "developer": "system", "assistant": "assistant", "tool": "tool"
}  # fmt: skip


class DeclaredTool:
    """A tool that the environment itself runs; the model is only told of it."""

    parallel = False
    uses_sandbox = False

    def __init__(self, told: Fields) -> None:
        self.name = str(told.get("name"))
        self.description = str(told.get("description") or f"The tool {self.name}.")
        schema = told.get("parameters")
        empty: Fields = {"type": "object", "properties": {}}
        self.schema: Fields = cast(Fields, schema) if isinstance(schema, Mapping) else empty

    async def open(self, ctx: Context) -> None:
        """Nothing to open."""

    async def __call__(self, **arguments: JsonValue) -> str:
        """Raises RuntimeError: calls go to the environment."""
        raise RuntimeError(f"{self.name} is run by its environment")

    async def close(self) -> None:
        """Nothing to close."""


@final
class Verifiers(Env):
    """An environment of the verifiers library, in a Python of its own."""

    protocol = "hermes"

    def __init__(
        self,
        *,
        id: str,
        args: Mapping[str, Any] | None = None,
        python: str | None = None,
        path: Sequence[str] = (),
        holdout: float = 0.1,
        load_s: float = 300.0,
        answer_s: float = 300.0,
    ) -> None:
        """Name an environment; its process starts at the first use and serves all episodes.

        Args:
            id: the environment's, as `verifiers.load_environment` takes it, or a taskset's.
            args: the loader's arguments.
            python: the Python that has verifiers and the environment installed; this one by default.
            path: folders with environments that are not installed.
            holdout: share of the rows kept for the test split when the environment brings none.
            load_s: deadline of loading it.
            answer_s: deadline of its answer to one turn, scoring included.

        Raises UserError on options that cannot be meant.
        """
        if not id:
            raise UserError("env.id: name the verifiers environment, such as env.id=gsm8k")
        if not 0 < holdout < 1 or min(load_s, answer_s) <= 0:
            raise UserError("env: holdout is between 0 and 1, load_s and answer_s are above 0")
        given = json.dumps(dict(args or {}), sort_keys=True)
        self._played = Played(id, given, python or sys.executable, tuple(path))
        self._holdout, self._load_s, self._answer_s = holdout, load_s, answer_s
        self._worker: Worker | None = None
        self._episode = ""
        self._heard: list[Fields] = []
        self._contexts = 0

    async def open(self, ctx: Context) -> None:
        """Load the environment, once a process. Raises WorkerLost, UserError, SetupError."""
        self._worker = worker_of(self._played)
        await self._worker.loaded(ctx.remaining_s(self._load_s))

    async def close(self) -> None:
        """Give up a rollout that still runs. Idempotent."""
        episode, self._episode = self._episode, ""
        if episode and self._worker is not None and self._worker.alive:
            await self._worker.ask("end", self._answer_s, episode=episode)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Begin the task's rollout; the environment may ask for a turn at once, or end."""
        await self.close()
        self._heard, self._contexts = [], 0
        name = uuid4().hex
        split, index = task.metadata.get("split"), task.metadata.get("index")
        if not isinstance(split, str) or not isinstance(index, int):
            raise UserError(f"task {task.id} is no row of {self._played.env}; let it bring its own")
        self._episode = name
        asked = await self._ask("start", episode=name, split=split, index=index)
        if "messages" not in asked:
            raise WorkerLost(
                f"{self._played.env} ended task {task.id} before the first turn: {asked}"
            )
        self._heard = _messages(asked)
        self.tools = _tools(asked)
        return tuple(_message(one) for one in self._heard)

    async def step(self, action: Action) -> StepResult:
        """Hand the turn to the environment's rollout; what it asks next is the observation."""
        if action.parse_error is not None and not action.tool_calls:
            told = Message("tool", action.parse_error)
            return StepResult((told,), 0.0, False, False, StepInfo())
        said = _assistant(action)
        answer = await self._ask("say", episode=self._episode, message=said)
        if "messages" not in answer:
            return self._over(answer, action)
        told = _messages(answer)
        self.tools = _tools(answer)
        before, self._heard = [*self._heard, said], told
        if [_key(one) for one in told[: len(before)]] == [_key(one) for one in before]:
            new = tuple(_message(one) for one in told[len(before) :])
            return StepResult(new, 0.0, False, False, StepInfo(results=_results(new)))
        self._contexts += 1  # the environment rewrote what was said: a row of its own
        fresh = tuple(_message(one) for one in told)
        info = StepInfo(results=_results(fresh[-1:]), context=f"rewritten_{self._contexts}")
        return StepResult(fresh, 0.0, False, False, info)

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """The rows of a split in a seeded order, epoch after epoch.

        Without data for evaluation the last `holdout` of the rows are the test split. Raises
        UserError on another split, or when there are no rows.
        """
        if split not in ("train", "test"):
            raise UserError(f"verifiers has the splits train and test, not {split!r}")
        worker = worker_of(self._played)
        sizes = worker.sizes(self._load_s)
        source, first, last = self._range(split, sizes)
        return self._stream(worker, source, range(first, last), derive("verifiers", seed, split))

    def random_turn(self, rng: Random) -> str:
        """A number, as an answer and alone."""
        return f"<answer>{rng.randrange(10)}</answer>"

    def _range(self, split: str, sizes: Fields) -> tuple[str, int, int]:
        """Which data set and which of its rows make a split."""
        train, test = (int(cast(int, sizes[name])) for name in ("train", "test"))
        if max(train, test) < 1:
            raise UserError(f"the verifiers environment {self._played.env} has no rows")
        if train > 0 and test > 0:
            return (split, 0, train if split == "train" else test)
        source, n = ("train", train) if train > 0 else ("test", test)
        kept = n - max(1, round(n * self._holdout)) if n > 1 else n
        return (source, 0, kept) if split == "train" else (source, min(kept, n - 1), n)

    def _stream(self, worker: Worker, source: str, rows: range, seed: int) -> Iterator[Task]:
        rng = Random(seed)
        pages: dict[int, Sequence[Fields]] = {}
        while True:
            for index in rng.sample(rows, len(rows)):
                page = index // _PAGE
                if page not in pages:
                    pages[page] = worker.rows(source, page * _PAGE, _PAGE, self._load_s)
                yield _task(self._played.env, source, index, pages[page][index % _PAGE])

    async def _ask(self, do: str, **fields: JsonValue) -> Fields:
        if self._worker is None:
            raise RuntimeError("open() the environment before playing it")
        return cast(Fields, await self._worker.ask(do, self._answer_s, **fields))

    def _over(self, told: Fields, action: Action) -> StepResult:
        error = told.get("error")
        if isinstance(error, str) and not error.startswith(_MODELS_FAULTS):
            raise WorkerLost(f"{self._played.env} failed: {error}")
        self._episode = ""
        truncated = bool(told.get("truncated"))
        info = StepInfo(answer=action.text)
        reward = float(cast(float, told["reward"]))
        return StepResult((), reward, not truncated, truncated, info)


def _task(env: str, split: str, index: int, row: Fields) -> Task:
    prompt, answer = row.get("prompt"), row.get("answer")
    messages = cast(Sequence[Fields], prompt) if isinstance(prompt, list) else ()
    asked = [_text(one.get("content")) for one in messages if one.get("role") == "user"]
    question = asked[-1] if asked else str(prompt or "")
    gold = str(answer) if answer not in (None, "") else None
    metadata: Fields = {"split": split, "index": index, "family": env}
    return Task(f"{env}/{split}/{index}", question or f"Row {index}.", gold, metadata)


def _messages(asked: Fields) -> list[Fields]:
    return list(cast(Sequence[Fields], asked["messages"]))


def _tools(asked: Fields) -> tuple[Tool, ...]:
    return tuple(DeclaredTool(told) for told in cast(Sequence[Fields], asked.get("tools") or ()))


def _message(told: Fields) -> Message:
    role = told.get("role")
    call_id = told.get("tool_call_id")
    return Message(
        _ROLES.get(str(role), "user"),
        _text(told.get("content")),
        tool_calls=tuple(
            _call(one) for one in cast(Sequence[Fields], told.get("tool_calls") or ())
        ),
        call_id=call_id if isinstance(call_id, str) else None,
    )


def _call(told: Fields) -> ToolCall:
    function = cast(Fields, told.get("function") or {})
    try:
        arguments = cast(JsonValue, json.loads(str(function.get("arguments") or "{}")))
    except ValueError:
        arguments = None
    given: Fields = arguments if isinstance(arguments, Mapping) else {}
    return ToolCall(str(told.get("id")), str(function.get("name")), given)


def _text(content: JsonValue) -> str:
    """Text of a message; parts that are no text are named."""
    if isinstance(content, str):
        return content
    parts = cast(Sequence[Fields], content) if isinstance(content, list) else ()
    return "\n".join(
        str(part.get("text")) if part.get("type") == "text" else f"[{part.get('type')}, not shown]"
        for part in parts
    )


def _assistant(action: Action) -> Fields:
    """The turn as a chat message: calls beside the text that is left without them."""
    text = action.text
    for call in action.tool_calls:
        text = text.replace(call.raw, "") if call.raw else text
    message: dict[str, JsonValue] = {"role": "assistant", "content": text.strip()}
    if action.tool_calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments))},
            }
            for call in action.tool_calls
        ]
    return message


def _results(observation: Sequence[Message]) -> tuple[ToolResult, ...]:
    return tuple(
        ToolResult(message.call_id, message.content)
        for message in observation
        if message.role == "tool" and message.call_id is not None
    )


def _key(told: Fields) -> tuple[str, str, tuple[str, ...]]:
    """What makes two messages the same, whatever a client adds to them."""
    calls = cast(Sequence[Fields], told.get("tool_calls") or ())
    return (
        str(told.get("role")),
        _text(told.get("content")),
        tuple(str(c.get("id")) for c in calls),
    )


__all__ = ["DeclaredTool", "Verifiers"]
