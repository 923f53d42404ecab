"""The kits hold good plug-ins up and name exactly what is wrong with bad ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from random import Random
from typing import ClassVar

import numpy as np
import pytest

from agentrl.context import Context
from agentrl.engine.base import EngineStatistics, Generation, Sampling
from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.errors import SandboxError, ToolError
from agentrl.points import Ctx, Services
from agentrl.rollout.plans.sample import Sample
from agentrl.sandbox import ExecResult
from agentrl.testing import (
    FakePool,
    FakeSandbox,
    check_engine,
    check_env,
    check_plan,
    check_sandbox,
    check_tool,
    failures,
)
from agentrl.tool import tool
from agentrl.trajectory import Group
from agentrl.types import JsonValue, Message, Task


def names(results: list) -> set[str]:
    return {result.name for result in failures(results)}


@tool(parallel=True)
async def shout(text: str) -> str:
    """Makes a text loud.

    Args:
        text: what to shout.
    """
    return text.upper()


class BadTool:
    """Breaks one promise after another."""

    name = "bad tool"
    description = "Bad."
    schema: ClassVar[Mapping[str, JsonValue]] = {
        "type": "object",
        "properties": {"x": {"type": "string"}},
        "required": ["x", "y"],
    }
    parallel = False

    async def open(self, ctx: Context) -> None:
        self.ctx: Context | None = ctx

    async def __call__(self, **arguments: JsonValue) -> str:
        raise RuntimeError("unfinished")

    async def close(self) -> None:
        if self.ctx is None:
            raise RuntimeError("closed already")
        self.ctx = None


async def test_a_good_tool_passes_all_twelve():
    results = await check_tool(shout)
    assert len(results) == 12
    assert failures(results) == []


async def test_every_fault_of_a_bad_tool_has_its_name():
    assert names(await check_tool(BadTool)) >= {
        "name is an identifier",
        "description addresses the model",
        "schema describes an object",
        "every argument is described",
        "close is idempotent",
    }


async def test_a_refusal_is_an_answer_unless_arguments_were_given():
    @tool
    async def picky(word: str) -> str:
        """Refuses whatever it is given.

        Args:
            word: any word.
        """
        raise ToolError("not that one")

    assert failures(await check_tool(picky)) == []
    assert names(await check_tool(picky, arguments={"word": "x"})) == {"a good call is answered"}


class Echo(Env):
    """Asks to repeat a word."""

    last: ClassVar[str] = ""

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self.task = task
        return (Message("user", f"Say {task.answer}"),)

    async def step(self, action: Action) -> StepResult:
        reward = float(action.text == self.task.answer)
        return StepResult((), reward, True, False, StepInfo(answer=action.text))

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        number = 0
        while True:
            yield Task(f"{split}/{seed}/{number}", "Say it", f"word{number}")
            number += 1

    def expert(self, task: Task, *, seed: int) -> Iterator[str]:
        yield task.answer or ""


class Leaky(Echo):
    """Shares state between instances, and its splits share tasks."""

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self.task = task
        seen, type(self).last = type(self).last, task.id
        return (Message("user", f"Say {task.answer}; before: {seen}"),)

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        return super().tasks("all", seed=seed)


class Mute(Echo):
    """Goes on without an answer, and its expert never ends."""

    async def step(self, action: Action) -> StepResult:
        return StepResult((), float("nan"), False, False, StepInfo())


async def test_a_good_env_passes():
    results = await check_env(Echo)
    assert len(results) == 17
    assert failures(results) == []
    remark = {r.name: r.detail for r in results}["expert solves its task"]
    assert remark == "mean reward 1.00 over 5 tasks"


async def test_faults_of_an_env_have_their_names():
    assert names(await check_env(Leaky)) == {
        "splits share no task",
        "instances share no state",
    }
    assert names(await check_env(Mute)) >= {"step answers any text", "expert solves its task"}


class Coin(Echo):
    """Its expert knows the even words only; whoever writes `word0` is right once in 24 tasks."""

    expert_floor = 0.5
    random_ceiling = 0.1

    def expert(self, task: Task, *, seed: int) -> Iterator[str]:
        yield (task.answer or "") if int((task.answer or "0")[4:]) % 2 == 0 else "no"

    def random_turn(self, rng: Random) -> str:
        return "word0"


class Proud(Coin):
    """Promises more of its expert and less of chance than is true."""

    expert_floor = 0.9
    random_ceiling = -0.1


async def test_floors_and_ceilings_are_held_to_what_is_played():
    told = {r.name: (r.ok, r.detail) for r in await check_env(Coin)}
    # 12 of 24 tasks; 1 of 24
    assert told["expert reaches the floor it declares"] == (
        True, "mean reward 0.500 over 24 tasks, floor 0.5",
    )  # fmt: skip
    assert told["a blind player stays under the ceiling"] == (
        True, "mean reward 0.042 over 24 tasks, ceiling 0.1",
    )  # fmt: skip
    told = {r.name: (r.ok, r.detail) for r in await check_env(Proud)}
    # 0.5 + 1.96 * 0.5108 / sqrt(24) = 0.704; 0.0417 - 1.96 * 0.2041 / sqrt(24) = -0.040
    assert told["expert reaches the floor it declares"] == (
        False, "mean reward 0.500, at most 0.704, is below 0.9",
    )  # fmt: skip
    assert told["a blind player stays under the ceiling"] == (
        False, "mean reward 0.042, at least -0.040, is above -0.1",
    )  # fmt: skip


async def test_an_env_without_tasks_asks_for_some():
    class Fixed(Echo):
        tasks = None  # type: ignore[assignment]

    assert "check_env(tasks=...)" in failures(await check_env(Fixed))[0].detail
    assert failures(await check_env(Fixed, tasks=[Task("a", "?", "b")])) == []


async def test_a_fake_sandbox_plays_its_script():
    pool = FakePool(["1\n", ExecResult("timeout"), SandboxError("lost")])
    for sandbox in [await pool.acquire(), await pool.acquire()]:
        assert (await sandbox.run("a", timeout_s=1)).stdout == "1\n"
        assert (await sandbox.run("b", timeout_s=1)).status == "timeout"
        with pytest.raises(SandboxError, match="lost"):
            await sandbox.run("c", timeout_s=1)
        with pytest.raises(AssertionError, match="3 replies; none for 'd'"):
            await sandbox.run("d", timeout_s=1)
        assert sandbox.ran == ["a", "b", "c", "d"]
    assert (pool.statistics().open_sessions, pool.statistics().runs) == (2, 8)
    await pool.close()
    assert pool.statistics().open_sessions == 0


async def test_a_fake_sandbox_answers_by_function():
    sandbox = FakeSandbox(lambda code: code.upper())
    assert (await sandbox.run("x", timeout_s=1)).stdout == "X"


async def test_a_sandbox_that_runs_nothing_fails_what_needs_running():
    wrong = names(await check_sandbox(lambda: FakePool(lambda _: "")))
    assert {
        "output is captured",
        "an exception is named",
        "state lives on, in its own session only",
    } <= wrong
    assert "nobody waits for input" in wrong
    assert "statistics count sessions and runs" not in wrong


V = 7


class TableEngine:
    """Samples from one fixed distribution; every promise can be checked by hand."""

    version = 3
    max_context = 64

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.generated = 0

    def _logprobs(self, temperature: float) -> np.ndarray:
        logits = np.log(np.arange(1, V + 1)) / (temperature or 1.0)
        return logits - np.log(np.exp(logits).sum())

    async def open(self) -> None:
        """Nothing to load."""

    async def generate(self, token_ids: np.ndarray, sampling: Sampling) -> Generation:
        logprobs = self._logprobs(sampling.temperature)
        rng = np.random.default_rng(None if self.fault == "unseeded" else sampling.seed)
        ids = rng.choice(V, size=sampling.max_tokens, p=np.exp(logprobs))
        if sampling.temperature == 0:
            ids = np.full(sampling.max_tokens, V - 1)
        stop = "length"
        hits = np.flatnonzero(np.isin(ids, sampling.stop_ids))
        if len(hits):
            ids, stop = ids[: hits[0] + (self.fault != "cut")], "stop_id"
        self.generated += len(ids)
        told = logprobs[ids] - (0.5 if self.fault == "raw" else 0.0)
        versions = ((len(ids), 2 if self.fault == "stale" else self.version),)
        entropies = np.full(len(ids), 1.0) if sampling.entropies else None
        return Generation(ids, told, stop, versions, entropies=entropies)  # type: ignore[arg-type]

    async def score(self, token_ids: np.ndarray, sampling: Sampling) -> np.ndarray:
        scores = self._logprobs(sampling.temperature)[token_ids]
        scores[0] = 0.0
        return scores.astype(np.float32)

    async def close(self) -> None:
        """Nothing to free."""

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(0, 0, self.generated, 0, 0.0)


@pytest.mark.parametrize(
    ("fault", "wrong"),
    [
        ("", set()),
        ("cut", {"a stop id ends the generation and is part of it"}),
        ("raw", {"logprobs are those that score gives", "temperature changes what score gives"}),
        ("stale", {"every token carries the version in use"}),
    ],
)
async def test_the_engine_kit_names_each_fault(fault: str, wrong: set[str]):
    results = await check_engine(lambda: TableEngine(fault), np.array([1, 2, 3]))  # type: ignore[arg-type, return-value]
    assert len(results) == 14
    assert names(results) == wrong


async def test_an_unseeded_engine_is_caught():
    results = await check_engine(lambda: TableEngine("unseeded"), np.array([1, 2, 3]))  # type: ignore[arg-type, return-value]
    assert "a seed decides the draws" in names(results)


class Twice:
    """A plan that gives the same trajectory twice, and the fastest first."""

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        running = [
            asyncio.create_task(services.episodes.run(task, sibling, ctx)) for sibling in range(4)
        ]
        done = [await one for one in asyncio.as_completed(running)]
        return Group(task, (*done, done[0]), ctx.step)


class Fearful(Sample):
    """A plan that raises what the world did."""

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        group = await super().collect(task, services, ctx)
        if any(t.error for t in group.trajectories):
            raise RuntimeError("one was lost")
        return group


async def test_faults_of_a_plan_have_their_names():
    assert failures(await check_plan(lambda renderer: Sample(group_size=4))) == []
    assert names(await check_plan(lambda renderer: Twice())) == {
        "members have uids and sibling numbers of their own",
        "the order in which tools answer changes nothing",
    }
    assert names(await check_plan(lambda renderer: Fearful(group_size=4))) == {
        "a failure of the world is in the group, not raised"
    }
