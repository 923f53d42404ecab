"""The JSON-lines form of trajectories: one object a line, readable without this package.

`from_line(to_line(t))` gives back every field; float32 logprobs are written with nine significant
digits, which is exact. A line of another `schema_version` is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from agentrl.errors import UserError
from agentrl.trajectory import CallRecord, StopReason, Timings, Trajectory
from agentrl.transcript import Float32Array, Origin, Segment, Transcript
from agentrl.types import JsonValue, Message, Task, ToolCall

SCHEMA_VERSION = 1
_ESCAPED = re.compile("[\ud800-\udfff\u0085\u2028\u2029]")


def to_line(trajectory: Trajectory) -> str:
    """One line of JSON, without the newline.

    Lone surrogates (a model may spell them in JSON) stay escaped, as UTF-8 has no bytes for them; so
    do the characters that many line readers take for the end of a line.
    """
    line = json.dumps(to_json(trajectory), ensure_ascii=False, separators=(",", ":"))
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def from_line(line: str) -> Trajectory:
    """The trajectory `to_line` wrote. Raises UserError on another schema or a broken line."""
    try:
        data = json.loads(line)
        version = data["schema_version"]
        if version == SCHEMA_VERSION:
            return _trajectory(data)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"not a trajectory line: {type(error).__name__}: {error}") from None
    raise UserError(
        f"this trajectory has schema_version {version}, this agentrl reads {SCHEMA_VERSION}; "
        "use the version of agentrl that wrote it"
    )


def to_json(trajectory: Trajectory) -> Mapping[str, JsonValue]:
    """Plain JSON values."""
    return {
        "schema_version": SCHEMA_VERSION,
        "uid": trajectory.uid,
        "task": task_json(trajectory.task),
        "sibling": trajectory.sibling,
        "stop": str(trajectory.stop),
        "rewards": dict(trajectory.rewards),
        "reward": trajectory.reward,
        "answer": trajectory.answer,
        "n_turns": trajectory.n_turns,
        "seed": trajectory.seed,
        "error": trajectory.error,
        "excluded": trajectory.excluded,
        "weight": trajectory.weight,
        "parent": trajectory.parent,
        "fork_tokens": trajectory.fork_tokens,
        "n_executed": trajectory.n_executed,
        "timings": asdict(trajectory.timings),
        "calls": [asdict(call) for call in trajectory.calls],
        "messages": [_message_json(message) for message in trajectory.messages],
        "rows": [_row_json(row) for row in trajectory.rows],
    }


def task_json(task: Task) -> Mapping[str, JsonValue]:
    """`Task(**task_json(task)) == task`."""
    return {
        "id": task.id, "question": task.question, "answer": task.answer,
        "metadata": dict(task.metadata), "seed": task.seed,
    }  # fmt: skip


def _message_json(message: Message) -> Mapping[str, JsonValue]:
    full: Mapping[str, JsonValue] = {
        "role": message.role, "content": message.content, "call_id": message.call_id,
        "name": message.name, "reasoning": message.reasoning,
        "tool_calls": [
            {"id": c.id, "name": c.name, "arguments": dict(c.arguments), "raw": c.raw}
            for c in message.tool_calls
        ],
    }  # fmt: skip
    return {key: value for key, value in full.items() if value not in (None, [])}


def _row_json(row: Transcript) -> Mapping[str, JsonValue]:
    return {
        "segments": [_segment_json(s) for s in row.segments],
        "train_context": None if row.train_context is None else row.train_context.tolist(),
        "ratio_mode": row.ratio_mode,
        "context": row.context,
    }


def _segment_json(segment: Segment) -> Mapping[str, JsonValue]:
    full: Mapping[str, JsonValue] = {
        "origin": segment.origin.name,
        "token_ids": segment.token_ids.tolist(),
        "logprobs": _floats(segment.logprobs),
        "entropies": _floats(segment.entropies),
        "version": segment.version,
        "temperature": segment.temperature,
        "policy": segment.policy,
    }
    return {key: value for key, value in full.items() if value is not None}


def _floats(values: Float32Array | None) -> Sequence[float] | None:
    return None if values is None else [float(f"{value:.9g}") for value in values]


def _trajectory(data: Mapping[str, Any]) -> Trajectory:
    plain = (
        "uid", "sibling", "rewards", "reward", "answer", "n_turns", "seed", "error", "excluded",
        "weight", "parent", "fork_tokens",
    )  # fmt: skip
    return Trajectory(
        task=Task(**data["task"]),
        stop=StopReason(data["stop"]),
        timings=Timings(**data["timings"]),
        calls=tuple(CallRecord(**call) for call in data["calls"]),
        messages=tuple(_message(message) for message in data["messages"]),
        rows=tuple(_row(row) for row in data["rows"]),
        n_executed=data.get("n_executed", 0),
        **{name: data[name] for name in plain},
    )


def _message(data: Mapping[str, Any]) -> Message:
    calls = tuple(ToolCall(**call) for call in data.get("tool_calls", ()))
    fields: dict[str, Any] = {**data, "tool_calls": calls}
    return Message(**fields)


def _row(data: Mapping[str, Any]) -> Transcript:
    context = data["train_context"]
    return Transcript(
        segments=tuple(_segment(segment) for segment in data["segments"]),
        train_context=None if context is None else np.array(context, np.int32),
        ratio_mode=data["ratio_mode"],
        context=data.get("context", ""),
    )


def _segment(data: Mapping[str, Any]) -> Segment:
    fields: dict[str, Any] = {**data, "origin": Origin[data["origin"]]}
    return Segment(**fields)
