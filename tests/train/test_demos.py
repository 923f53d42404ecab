"""Supervised rows: conversations from a file, and experts played by the loop in the real sandbox.

nano's ids: byte b is b; 257 <|user|>, 258 <|system|>, 259 <|assistant|>, 260 <|end|>, 261 <|tool|>,
264 <code>, 265 </code>, 266 <interpreter>, 267 </interpreter>, 268 <answer>, 269 </answer>.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from agentrl.chat.nano import NanoRenderer
from agentrl.chat.protocols.retool import ReTool
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.engine.base import Sampling
from agentrl.engine.scripted import ScriptedEngine
from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.errors import RunFailed, SandboxError, SandboxUnavailable, UserError
from agentrl.rollout.limits import Limits, Slots
from agentrl.rollout.parts import Names, Parts
from agentrl.sandbox import SandboxPool
from agentrl.train.demos import conversation_rows, demonstrate, demonstrations
from agentrl.train.setup import Chat
from agentrl.transcript import Origin, Transcript
from agentrl.types import Message, Task
from agentrl_envs.retool_math import RetoolMath
from agentrl_sandbox.local import LocalPool


@pytest.fixture(scope="module")
def chat(tiny: Path) -> Chat:
    tokenizer = load_tokenizer(tiny)
    return Chat(tokenizer, NanoRenderer(tokenizer), ReTool(fence=False))


def lines(path: Path, *conversations: Any) -> Path:
    path.write_text("".join(json.dumps(c, ensure_ascii=False) + "\n" for c in conversations))
    return path


def talk(*messages: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text, **more} for role, text in messages]}


def origins(row: Transcript) -> list[tuple[Origin, list[int]]]:
    return [(s.origin, s.token_ids.tolist()) for s in row.segments]


def test_a_conversation_by_hand(chat: Chat, tmp_path: Path):
    """Only what the assistant wrote, its end included, is DEMO."""
    path = lines(
        tmp_path / "c.jsonl",
        talk(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")),
    )
    (row,) = conversation_rows(path, chat)
    assert origins(row) == [
        (Origin.PROMPT, [258, 115, 260, 257, 97, 260, 259]),
        (Origin.DEMO, [98, 260]),
        (Origin.OBSERVATION, [257, 99, 260]),
        (Origin.SCAFFOLD, [259]),
        (Origin.DEMO, [100, 260]),
    ]
    assert not row.mask.any()


def test_a_row_is_the_whole_conversation_rendered_at_once(chat: Chat, tmp_path: Path):
    """Two turns of the assistant in a row and trailing questions included."""
    said = [
        ("user", "a"), ("assistant", "b"), ("assistant", "<think>é</think>c"), ("tool", "d"),
        ("assistant", ""), ("user", "never answered"),
    ]  # fmt: skip
    (row,) = conversation_rows(lines(tmp_path / "c.jsonl", talk(*said)), chat)
    whole = chat.renderer.prompt_ids([Message(role, text) for role, text in said[:-1]])  # type: ignore[arg-type]
    assert row.token_ids.tolist() == whole.tolist()[:-1]
    demo = [s.token_ids.tolist() for s in row.segments if s.origin is Origin.DEMO]
    assert demo == [[98, 260], [262, *"é".encode(), 263, 99, 260], [260]]


def test_calls_are_written_in_the_protocol_and_content_may_be_null(chat: Chat, tmp_path: Path):
    path = tmp_path / "c.jsonl"
    call = {"id": "c1", "name": "python", "arguments": {"code": "1+1"}}
    said = talk(("user", "a"), ("assistant", None))
    said["messages"][1]["tool_calls"] = [call]
    (row,) = conversation_rows(lines(path, said), chat)
    assert origins(row)[1] == (Origin.DEMO, [264, *b"1+1", 265, 260])


def test_line_separators_of_other_alphabets_do_not_end_a_line(chat: Chat, tmp_path: Path):
    path = lines(tmp_path / "c.jsonl", talk(("user", "a\u2028b\x85"), ("assistant", "c")))
    (row,) = conversation_rows(path, chat)
    assert chat.tokenizer.decode(row.token_ids[1:-4]) == "a\u2028b\x85"


GOOD = json.dumps(talk(("user", "a"), ("assistant", "b")))


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("{", r"c.jsonl:3: not a conversation \(JSONDecodeError"),
        ("[1]", r"c.jsonl:3: not a conversation \(TypeError"),
        ('{"text": "a"}', r"c.jsonl:3: not a conversation \(KeyError: 'messages'\)"),
        ('{"messages": []}', r"c.jsonl:3: not a conversation \(ValueError: no messages\)"),
        ('{"messages": ["a"]}', "c.jsonl:3: not a conversation"),
        ('{"messages": [{"role": "user"}]}', "c.jsonl:3: not a conversation"),
        (json.dumps(talk(("judge", "a"), ("assistant", "b"))), "c.jsonl:3: .*unknown role 'judge'"),
        (json.dumps(talk(("user", "a"))), "c.jsonl:3: no assistant message answers the first"),
        (json.dumps(talk(("assistant", "a"))), "c.jsonl:3: no assistant message answers the first"),
        (
            json.dumps(talk(("assistant", "a"), ("user", "b"), ("assistant", "c"))),
            "c.jsonl:3: .*a conversation starts with system or user",
        ),
    ],
)
def test_a_bad_line_is_told_with_its_number(chat: Chat, tmp_path: Path, bad: str, told: str):
    """The blank second line counts."""
    (tmp_path / "c.jsonl").write_text(f"{GOOD}\n\n{bad}\n")
    with pytest.raises(UserError, match=told) as raised:
        conversation_rows(tmp_path / "c.jsonl", chat)
    assert "\n" not in str(raised.value)


def test_a_call_that_the_protocol_cannot_say(chat: Chat, tmp_path: Path):
    said = talk(("user", "a"), ("assistant", "b"))
    said["messages"][1]["tool_calls"] = [{"id": "c", "name": "search", "arguments": {"query": "x"}}]
    path = lines(tmp_path / "c.jsonl", json.loads(GOOD), said)
    with pytest.raises(UserError, match=r"c.jsonl:2: retool_bare writes only python\(code\)"):
        conversation_rows(path, chat)


def test_files_that_cannot_be_used(chat: Chat, tmp_path: Path):
    with pytest.raises(UserError, match=r"cannot read .*No such file"):
        conversation_rows(tmp_path / "none.jsonl", chat)
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(UserError, match="holds no conversation"):
        conversation_rows(tmp_path / "empty.jsonl", chat)
    (tmp_path / "latin.jsonl").write_bytes(b'{"messages": "\xff"}\n')
    with pytest.raises(UserError, match="cannot read"):
        conversation_rows(tmp_path / "latin.jsonl", chat)


def parts(chat: Chat, make_env: Any, pool: SandboxPool | None = None, **limits: Any) -> Parts:
    return Parts(
        make_env=make_env,
        engine=ScriptedEngine(lambda *_: ""),
        renderer=chat.renderer,
        protocol=chat.protocol,
        limits=Limits(turn_tokens=64, max_tokens=256, **limits),
        sampling=Sampling(max_tokens=1),
        tool_slots=Slots(4),
        pool=pool,
    )


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[SandboxPool]:
    pool = LocalPool(max_sessions=8)
    try:
        await pool.open()
    except SandboxUnavailable as error:
        pytest.skip(f"no sandbox here: {error}")
    yield pool
    await pool.close()


def spoken(chat: Chat, row: Transcript, origin: Origin) -> list[str]:
    return [chat.tokenizer.decode(s.token_ids) for s in row.segments if s.origin is origin]


async def test_experts_in_the_real_sandbox(chat: Chat, pool: SandboxPool):
    """Eight tasks: what is DEMO is what the expert wrote; what it was shown is what Python printed,
    and the answer it gives is read from there."""
    env = RetoolMath(style="terse")
    tasks = list(islice(env.tasks("train", seed=5), 8))
    done: list[int] = []
    rows = await demonstrations(
        tasks, parts(chat, lambda: RetoolMath(style="terse"), pool), 5, done.append
    )
    assert sorted(done) == list(range(1, 9))
    for task, row in zip(tasks, rows, strict=True):
        said, shown = spoken(chat, row, Origin.DEMO), spoken(chat, row, Origin.OBSERVATION)
        assert said[-1] == f"<answer>{task.answer}</answer><|end|>", task.id
        assert all(s.startswith("<code>") and s.endswith("</code>") for s in said[:-1])
        assert len(shown) == len(said) - 1 >= 1
        code = [s.removeprefix("<code>").removesuffix("</code>") for s in said[:-1]]
        variables: dict[str, object] = {}
        for cell in code[:-1]:
            exec(cell, variables)
        try:
            value = repr(eval(code[-1], variables))  # noqa: S307  our own expert's code
        except SyntaxError:
            continue  # it prints; the sandbox's word is taken for it
        assert shown[-1] == f"<interpreter>{value}</interpreter>"
        assert not row.mask.any()


async def test_demonstrations_are_in_task_order_and_repeat(chat: Chat, pool: SandboxPool):
    tasks = list(islice(RetoolMath(style="terse").tasks("train", seed=6), 4))
    made = parts(chat, lambda: RetoolMath(style="terse", tool_habit=0.5), pool)
    first = await demonstrations(tasks, made, 1, lambda _: None)
    again = await demonstrations(tasks, made, 1, lambda _: None)
    assert [r.token_ids.tolist() for r in first] == [r.token_ids.tolist() for r in again]
    for task, row in zip(tasks, first, strict=True):
        assert task.question in chat.tokenizer.decode(row.token_ids)


class Silent(Env):
    """An environment without an expert."""

    async def reset(self, task: Task, *, seed: int) -> Observation:
        return (Message("user", task.question),)

    async def step(self, action: Action) -> StepResult:
        return StepResult((Message("user", "on"),), 0.0, False, False, StepInfo())


class Endless(Silent):
    """Its expert has two turns, but it never ends."""

    def expert(self, task: Task, *, seed: int) -> Iterator[str]:
        yield from ("a", "b")


class Lost(Endless):
    async def step(self, action: Action) -> StepResult:
        raise SandboxError("box lost")


async def test_an_environment_without_an_expert(chat: Chat):
    with pytest.raises(UserError, match=r"Silent has no expert; give sft.path=conversations.jsonl"):
        await demonstrate(Task("t", "Q"), Silent(), parts(chat, Silent), 0)


@pytest.mark.parametrize(
    ("env", "limits", "told"),
    [
        (
            Endless,
            {},
            "the expert on t ended with error: EngineError: the expert stopped after 2 t",
        ),
        (Endless, {"max_turns": 1}, "the expert on t ended with max_turns"),
        (Lost, {}, "the expert on t ended with error: SandboxError: box lost"),
    ],
)
async def test_an_expert_that_does_not_reach_the_end(
    chat: Chat, env: type[Env], limits: Any, told: str
):
    with pytest.raises(ExceptionGroup) as raised:
        await demonstrations([Task("t", "Q")], parts(chat, env, **limits), 0, lambda _: None)
    assert raised.group_contains(RunFailed, match=told)


async def test_the_expert_s_end_is_its_own(chat: Chat):
    """A turn that ends in a stop string is cut there; any other gets <|end|>."""

    class Two(Endless):
        async def step(self, action: Action) -> StepResult:
            over = action.text == "b"
            return StepResult((Message("tool", "ok"),), 1.0, over, False, StepInfo())

        def expert(self, task: Task, *, seed: int) -> Iterator[str]:
            yield from ("<code>1</code>", "b")

    played = await demonstrate(Task("t", "Q"), Two(), parts(chat, Two), 3)
    assert origins(played.rows[0])[1:] == [
        (Origin.DEMO, [264, 49, 265]),
        (Origin.OBSERVATION, [266, *b"ok", 267]),
        (Origin.DEMO, [98, 260]),
    ]
    assert (played.uid, played.seed) == ("0/t/0", Names(3, 0, Task("t", "Q")).seeds(0).sampling)
