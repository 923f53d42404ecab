"""Supervised rows: experts played by the one loop, or stored conversations rendered once.

The loop runs with a scripted engine that writes the expert's turns, so tools and sandbox really run
and observations are what they would be in a rollout. Expert text is encoded once, as DEMO.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from agentrl.engine.base import Sampling
from agentrl.engine.scripted import ScriptedEngine
from agentrl.env import Env, Expert
from agentrl.errors import EngineError, RunFailed, UserError
from agentrl.rollout.loop import run_episode
from agentrl.rollout.parts import Names, Parts
from agentrl.seeds import derive
from agentrl.train.setup import Chat
from agentrl.trajectory import StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript
from agentrl.types import Message, Task, ToolCall

AT_ONCE = 32
"""Demonstrations played side by side."""


async def demonstrate(task: Task, env: Env, parts: Parts, seed: int) -> Trajectory:
    """Play the environment's expert on one task. Raises UserError when it has none."""
    if not isinstance(env, Expert):
        raise UserError(f"{type(env).__name__} has no expert; give sft.path=conversations.jsonl")
    renderer = parts.renderer
    turns = list(env.expert(task, seed=seed))

    def write(token_ids: object, sampling: Sampling, index: int) -> Sequence[int]:
        if index == len(turns):
            raise EngineError(f"the expert stopped after {index} turns without an ending")
        text = turns[index]
        ended = not any(text.endswith(stop) for stop in parts.protocol.stops)
        return renderer.demo(text, ended=ended).tolist()

    engine = ScriptedEngine(write, tokenizer=renderer.tokenizer)
    parts = replace(parts, engine=engine)
    return await run_episode(task, parts, Names(seed, 0, task), demo=True)


async def demonstrations(
    tasks: Sequence[Task], parts: Parts, seed: int, tick: Callable[[int], None]
) -> list[Transcript]:
    """Every row of every task's demonstration, in task order; `tick` hears how many are done.

    Raises RunFailed when an expert's turn could not be played to the environment's own ending.
    """
    env = parts.make_env()
    gate = asyncio.Semaphore(AT_ONCE)
    done = 0

    async def one(index: int, task: Task) -> tuple[Transcript, ...]:
        nonlocal done
        async with gate:
            played = await demonstrate(task, env, parts, derive(seed, "demo", index))
        if played.stop is not StopReason.TERMINATED:
            raise RunFailed(
                f"the expert on {task.id} ended with {played.stop}: {played.error or played.messages[-1]}"
            )
        done += 1
        tick(done)
        return played.rows

    async with asyncio.TaskGroup() as running:
        started = [running.create_task(one(i, task)) for i, task in enumerate(tasks)]
    return [row for task in started for row in task.result()]


def conversation_rows(path: Path, chat: Chat) -> list[Transcript]:
    """Rows of a jsonl file of `{"messages": [...]}`: the assistant's turns are DEMO.

    Raises UserError with the line number on a row that is not a conversation.
    """
    rows: list[Transcript] = []
    for number, messages in _conversations(path):
        try:
            rows.append(_row(messages, chat))
        except ValueError as error:
            raise UserError(f"{path}:{number}: {error}") from None
    if not rows:
        raise UserError(f"{path} holds no conversation; give one with at least one line")
    return rows


def _row(messages: Sequence[Message], chat: Chat) -> Transcript:
    renderer = chat.renderer
    first = next(i for i, m in enumerate(messages) if m.role == "assistant")
    row = Transcript().append(Segment(Origin.PROMPT, renderer.prompt_ids(messages[:first])))
    others: list[Message] = []
    for message in messages[first:]:
        if message.role != "assistant":
            others.append(message)
            continue
        if row.segments[-1].origin is Origin.DEMO or others:
            spans = renderer.delta(tuple(others), ended=True)
            row = row.append(*(Segment(s.origin, s.token_ids) for s in spans))
            others = []
        written = [chat.protocol.call_text(c.name, c.arguments) for c in message.tool_calls]
        text = "".join([message.content, *written])
        row = row.append(Segment(Origin.DEMO, renderer.demo(text, ended=True)))
    return row


def _conversations(path: Path) -> Iterator[tuple[int, list[Message]]]:
    """Line number and messages of every line that is not blank."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            messages = [_message(m) for m in json.loads(line)["messages"]]
            if not messages:
                raise ValueError("no messages")
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}:{number}: not a conversation ({type(error).__name__}: {error}); a line is "
                '{"messages": [{"role": "user", "content": "..."}, ...]}'
            ) from None
        if messages[0].role == "assistant" or all(m.role != "assistant" for m in messages):
            raise UserError(
                f"{path}:{number}: no assistant message answers the first message; a conversation "
                "starts with system or user"
            )
        yield number, messages


def _message(data: object) -> Message:
    fields = cast(dict[str, Any], data)
    if fields["role"] not in ("system", "user", "assistant", "tool"):
        raise ValueError(f"unknown role {fields['role']!r}")
    calls = tuple(ToolCall(**call) for call in fields.get("tool_calls", ()))
    content = "" if fields["content"] is None else str(fields["content"])
    return Message(fields["role"], content, tool_calls=calls)
