"""A mixture: proportions, whose environment plays a task, and what cannot be mixed."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any, ClassVar

import pytest

from agentrl import registry
from agentrl.config import Plugin
from agentrl.context import Context
from agentrl.env import Action, Env, Expert, Observation, StepInfo, StepResult, TaskGenerator
from agentrl.errors import UserError
from agentrl.plugins import build, maker
from agentrl.sandbox import SandboxPool
from agentrl.testing import check_env
from agentrl.testing.result import failures
from agentrl.tool import tool
from agentrl.types import Message, Task
from agentrl_envs.mixture import Mixture, turns
from agentrl_envs.retool_math import RetoolMath

CODE = {"name": "retool_math", "label": "code", "share": 3, "style": "terse", "max_calls": 2}
HEAD = {"name": "retool_math", "label": "head", "style": "terse", "tools": "none", "levels": [1]}


@tool
async def python(code: str) -> str:
    """Something else under a known name."""
    return code


class Silent(Env):
    """Neither tasks nor an expert; remembers what it was told."""

    protocol: str = "retool_bare"
    seen: ClassVar[list[object]] = []

    def __init__(self, *, protocol: str = "retool_bare", max_calls: int = 0) -> None:
        self.protocol = protocol
        self.seen.append(("made", max_calls))

    async def open(self, ctx: Context) -> None:
        self.seen.append("open")

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self.seen.append((task, seed))
        return (Message("user", task.question),)

    async def step(self, action: Action) -> StepResult:
        return StepResult((), 0.25, True, False, StepInfo(answer=action.text))

    async def close(self) -> None:
        self.seen.append("close")


class OtherPython(Silent):
    tools = (python,)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two are registered for one test."""
    for name, factory in (("silent", Silent), ("other_python", OtherPython)):
        monkeypatch.setitem(registry._registered, ("env", name), factory)


def node(*members: Any) -> Plugin:
    return Plugin.model_validate({"name": "mixture", "envs": list(members)})


def made(*members: Any) -> Mixture:
    return build("env", node(*members), max_calls=5, call_s=30.0)


def test_every_stretch_holds_the_shares() -> None:
    """3 : 1, and never more than one task away from it."""
    assert list(islice(turns({"a": 3.0, "b": 1.0}), 8)) == list("aabaaaba")
    drawn = list(islice(turns({"a": 0.5, "b": 0.3, "c": 0.2}), 1000))
    for n in (10, 57, 1000):
        counts = Counter(drawn[:n])
        for label, share in (("a", 0.5), ("b", 0.3), ("c", 0.2)):
            assert abs(counts[label] - n * share) < 1


def test_tasks_are_the_members_own() -> None:
    env = made(CODE, HEAD)
    assert isinstance(env, TaskGenerator)
    tasks = list(islice(env.tasks("train", seed=4), 40))
    assert Counter(t.metadata["env"] for t in tasks) == {"code": 30, "head": 10}
    assert all(t.id.startswith(f"{t.metadata['env']}/") for t in tasks)
    assert {t.metadata["level"] for t in tasks if t.metadata["env"] == "head"} == {1}
    assert tasks == list(islice(made(CODE, HEAD).tasks("train", seed=4), 40))
    assert tasks != list(islice(env.tasks("train", seed=5), 40))


async def test_a_task_is_played_where_it_came_from() -> None:
    """Rewards, first messages and tools are the member's; before a task, tools are everybody's."""
    env = made(CODE, HEAD)
    assert [t.name for t in env.tools] == ["python"]
    for task in islice(env.tasks("train", seed=1), 8):
        label = str(task.metadata["env"])
        own = RetoolMath(style="terse", tools="python" if label == "code" else "none")
        await env.open(Context())
        first = await env.reset(task, seed=0)
        assert [t.name for t in env.tools] == (["python"] if label == "code" else [])
        inner = Task(task.id.removeprefix(f"{label}/"), task.question, task.answer, {
            k: v for k, v in task.metadata.items() if k != "env"
        }, task.seed)  # fmt: skip
        assert first == await own.reset(inner, seed=0)
        action = Action(f"<answer>{task.answer}</answer>")
        assert await env.step(action) == await own.step(action)
        await env.close()


def test_the_expert_is_the_members() -> None:
    env = made(CODE, HEAD)
    assert isinstance(env, Expert)
    for task in islice(env.tasks("train", seed=1), 8):
        assert list(env.expert(task, seed=3))
    task = next(t for t in env.tasks("train", seed=1) if t.metadata["env"] == "head")
    own = RetoolMath(style="terse", tools="none", levels=(1,))
    alike = next(islice(own.tasks("train", seed=0), 1))
    marked = Task(
        f"head/{alike.id}", alike.question, alike.answer, {**alike.metadata, "env": "head"}
    )
    assert list(env.expert(marked, seed=3)) == list(own.expert(alike, seed=3))
    assert task.id != alike.id
    assert not isinstance(made(CODE, {"name": "silent"}), Expert)


async def test_members_are_opened_for_their_task_and_closed_once() -> None:
    env = made({"name": "silent", "label": "a"}, {"name": "silent", "label": "b", "max_calls": 7})
    Silent.seen.clear()
    await env.open(Context())
    await env.close()
    assert Silent.seen == []
    task = Task("b/7", "?", None, {"env": "b", "level": 1}, seed=5)
    await env.reset(task, seed=9)
    assert (await env.step(Action("x"))).reward == 0.25
    await env.close()
    await env.close()
    inner = Task("7", "?", None, {"level": 1}, seed=5)
    assert Silent.seen == [("made", 7), "open", (inner, 9), "close"]
    await env.reset(Task("a/1", "?", None, {"env": "a"}), seed=0)
    assert Silent.seen[4] == ("made", 5)
    with pytest.raises(RuntimeError, match="reset"):
        await made({"name": "silent"}).step(Action("x"))


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ((), "a label of its own"),
        ((CODE, CODE), "a label of its own"),
        (({**CODE, "share": 0},), "positive share"),
        ((CODE, {**HEAD, "style": "plain"}), "code retool_bare, head retool"),
        ((CODE, {"name": "other_python"}), "the tool 'python' of other_python differs"),
        (({**CODE, "stile": "terse"},), "unknown key 'env.stile'"),
        (({"name": "retool_maths"},), "retool_math"),
    ],
)
def test_what_cannot_be_mixed_is_told(members: tuple[Any, ...], told: str) -> None:
    with pytest.raises(UserError, match=told):
        made(*members)


async def test_tasks_of_nobody_are_told() -> None:
    env = made(CODE, {"name": "silent"})
    with pytest.raises(UserError, match="silent generates no tasks"):
        next(env.tasks("train", seed=0))
    with pytest.raises(UserError, match="belongs to env 'None'"):
        await env.reset(Task("t", "?"), seed=0)


@pytest.mark.asyncio(loop_scope="module")
async def test_it_keeps_the_contract(local_pool: SandboxPool) -> None:
    checks = await check_env(maker("env", node(CODE, HEAD), max_calls=8), pool=local_pool)
    assert failures(checks) == []
