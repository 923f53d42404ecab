"""The promises of `agentrl.env.Env`, and of the abilities an environment may add."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from random import Random
from statistics import fmean, stdev
from typing import NamedTuple, cast

from agentrl.chat.base import ToolProtocol
from agentrl.context import Context
from agentrl.env import (
    Action,
    Env,
    Expert,
    Observation,
    RandomPlayer,
    StepResult,
    TaskGenerator,
    may_lease,
)
from agentrl.errors import UserError
from agentrl.evaluate.statistics import Z95
from agentrl.registry import resolve
from agentrl.rollout.limits import Lease
from agentrl.sandbox import SandboxPool
from agentrl.seeds import derive
from agentrl.testing.fakes import FakePool
from agentrl.testing.result import CheckResult, expect, failures, promise, run_checks
from agentrl.testing.tool_kit import check_tool
from agentrl.transcript import ids_array
from agentrl.types import Message, Task, ToolCall

ODD_TEXT = "\u00e9 \U0001f980 \u202e <|im_end|> </tool_call> \x00 end"
"""Text no environment may trip over: other scripts, control strings, a NUL."""


async def check_env(
    make_env: Callable[[], Env],
    *,
    tasks: Sequence[Task] = (),
    pool: SandboxPool | None = None,
    max_turns: int = 16,
) -> list[CheckResult]:
    """Test an environment against the contract.

    Args:
        make_env: makes a fresh episode's environment each time.
        tasks: what to play; needed unless the environment generates tasks.
        pool: a real, open pool when tools need one; by default a fake that prints nothing, and
            then `expert solves its task` is skipped for environments with tools.
        max_turns: episodes of the expert longer than this fail.
    """
    try:
        kit = _Kit(make_env, tuple(tasks) or _generated(make_env()), pool, max_turns)
    except UserError as error:
        return [CheckResult("has tasks to play", False, str(error))]
    checks = [
        promise(kit.has_tasks),
        promise(kit.seeded_tasks),
        promise(kit.disjoint),
        promise(kit.knows_protocol),
        promise(kit.tools_conform),
        promise(kit.first_messages),
        promise(kit.same_reset),
        promise(kit.independent),
        promise(kit.any_text),
        promise(kit.same_step),
        promise(kit.unreadable),
        promise(kit.unknown_tool),
        promise(kit.expert),
        promise(kit.expert_floor),
        promise(kit.random_ceiling),
        promise(kit.close_twice),
        promise(kit.close_at_once),
    ]
    return await run_checks(checks)


def _generated(env: Env, split: str = "train", n: int = 24) -> tuple[Task, ...]:
    if not isinstance(env, TaskGenerator):
        raise UserError("the environment generates no tasks; hand some to check_env(tasks=...)")
    return tuple(islice(env.tasks(split, seed=0), n))


class _Kit:
    def __init__(
        self,
        make_env: Callable[[], Env],
        tasks: tuple[Task, ...],
        pool: SandboxPool | None,
        max_turns: int,
    ) -> None:
        self._make_env = make_env
        self._tasks = tasks
        self._real = pool is not None
        self._pool = pool or FakePool(lambda _: "")
        self._max_turns = max_turns

    @asynccontextmanager
    async def episode(self, task: Task) -> AsyncGenerator[tuple[Env, Observation]]:
        """A live episode and its first messages; closed whatever happens."""
        env, lease = self._make_env(), Lease(self._pool)
        try:
            await env.open(Context(lease_sandbox=lease.get, seed=task.seed))
            yield env, await env.reset(task, seed=task.seed)
        finally:
            await env.close()
            await lease.close()

    async def has_tasks(self) -> str:
        """Has tasks to play."""
        expect(bool(self._tasks), "there is no task")
        ids = [task.id for task in self._tasks]
        expect(len(set(ids)) == len(ids), "two tasks share an id")
        expect(all(task.question.strip() for task in self._tasks), "a task has no question")
        return f"{len(ids)} tasks"

    async def seeded_tasks(self) -> str | None:
        """Tasks repeat under a seed."""
        env = self._make_env()
        if not isinstance(env, TaskGenerator):
            return "skipped: generates no tasks"
        expect(_generated(env) == _generated(self._make_env()), "the same seed gave other tasks")

    async def disjoint(self) -> str | None:
        """Splits share no task."""
        env = self._make_env()
        if not isinstance(env, TaskGenerator):
            return "skipped: generates no tasks"
        train = {task.id for task in _generated(env, "train", 200)}
        shared = train & {task.id for task in _generated(env, "test", 200)}
        expect(not shared, f"train and test share {sorted(shared)[:3]}")

    async def knows_protocol(self) -> str:
        """Protocol is known."""
        self.protocol()
        return self._make_env().protocol

    def protocol(self) -> ToolProtocol:
        """The protocol that the environment is written for."""
        return resolve("protocol", self._make_env().protocol)()

    async def tools_conform(self) -> str | None:
        """Tools keep their contract."""
        for tool in self._make_env().tools:
            bad = failures(await check_tool(tool, pool=self._pool))
            expect(not bad, "; ".join(f"{tool.name}: {b.name}: {b.detail}" for b in bad))
        return ", ".join(tool.name for tool in self._make_env().tools) or "no tools"

    async def first_messages(self) -> None:
        """Reset gives the first messages."""
        async with self.episode(self._tasks[0]) as (_, observation):
            expect_observation(observation)
            expect(
                observation[-1:] != () and observation[-1].role == "user",
                "it ends with a user message",
            )

    async def same_reset(self) -> None:
        """Reset repeats under a seed."""
        async with self.episode(self._tasks[0]) as (_, first):
            pass
        async with self.episode(self._tasks[0]) as (_, second):
            expect(first == second, "two resets of one task differ")

    async def independent(self) -> str | None:
        """Instances share no state."""
        if len(self._tasks) < 2:
            return "skipped: one task only"
        async with self.episode(self._tasks[0]) as (_, alone):
            pass
        async with self.episode(self._tasks[1]), self.episode(self._tasks[0]) as (_, beside):
            expect(alone == beside, "another live episode changed the first messages")

    async def any_text(self) -> None:
        """Step answers any text."""
        for text in ("", ODD_TEXT, "x" * 10_000):
            async with self.episode(self._tasks[0]) as (env, _):
                expect_step(await env.step(self.protocol().parse(ids_array(()), text, turn=0)))

    async def same_step(self) -> None:
        """Step repeats under a seed."""
        steps: list[StepResult] = []
        for _ in range(2):
            async with self.episode(self._tasks[0]) as (env, _):
                steps.append(await env.step(Action("I do not know.")))
        expect(steps[0][:4] == steps[1][:4], f"{steps[0][:4]} and then {steps[1][:4]}")

    async def unreadable(self) -> None:
        """An unreadable action is answered."""
        async with self.episode(self._tasks[0]) as (env, _):
            expect_step(await env.step(Action("<bad", parse_error="This could not be read.")))

    async def unknown_tool(self) -> str | None:
        """An unknown tool is corrected."""
        async with self.episode(self._tasks[0]) as (env, _):
            if not env.tools:
                return "skipped: no tools"
            call = ToolCall("call_0_0", "no_such_tool", {})
            result = await env.step(Action("", (call,)))
            expect_step(result)
            faults = [r.error for r in result.info.results]
            expect(faults == ["unknown_tool"], f"info.results says {faults}")
            expect(bool(result.observation), "the model is told nothing")

    async def expert(self) -> str | None:
        """Expert solves its task."""
        env = self._make_env()
        if not isinstance(env, Expert):
            return "skipped: no expert"
        if may_lease(env) and not self._real:
            return "skipped: needs a real sandbox pool"
        played = self._tasks[:5]
        rewards = [await self._shown(task) for task in played]
        lost = [task.id for task, reward in zip(played, rewards, strict=True) if reward <= 0]
        expect(not lost, f"the expert earned nothing on {', '.join(lost)}")
        return f"mean reward {sum(rewards) / len(rewards):.2f} over {len(rewards)} tasks"

    async def _shown(self, task: Task) -> float:
        """Reward of the expert, all of whose turns are needed and allowed."""
        env = self._make_env()
        turns = tuple(env.expert(task, seed=task.seed)) if isinstance(env, Expert) else ()
        expect(len(turns) <= self._max_turns, f"the expert needs over {self._max_turns} turns")
        score = await self._play(task, turns)
        expect(score.turns == len(turns), "the expert goes on after the end")
        expect(score.ended, f"the expert's turns do not end task {task.id}")
        return score.reward

    async def _play(self, task: Task, turns: Iterable[str]) -> _Score:
        """Turn after turn until the environment ends it or there are no more."""
        protocol, total, n = self.protocol(), 0.0, 0
        async with self.episode(task) as (env, _):
            for text in turns:
                result = await env.step(protocol.parse(ids_array(()), text, turn=n))
                expect_step(result)
                total, n = total + result.reward, n + 1
                if result.terminated or result.truncated:
                    return _Score(total, n, True)
        return _Score(total, n, False)

    async def expert_floor(self) -> str | None:
        """Expert reaches the floor it declares."""
        floor = self._make_env().expert_floor
        if floor is None:
            return "skipped: declares no expert_floor"
        if may_lease(self._make_env()) and not self._real:
            return "skipped: needs a real sandbox pool"
        mean, _, high = interval([await self._shown(task) for task in self._tasks])
        expect(high >= floor, f"mean reward {mean:.3f}, at most {high:.3f}, is below {floor:g}")
        return f"mean reward {mean:.3f} over {len(self._tasks)} tasks, floor {floor:g}"

    async def random_ceiling(self) -> str | None:
        """A blind player stays under the ceiling."""
        env = self._make_env()
        ceiling = env.random_ceiling
        if ceiling is None:
            return "skipped: declares no random_ceiling"
        if not isinstance(env, RandomPlayer):
            raise AssertionError("there is a random_ceiling but no random_turn to hold it to")
        rewards: list[float] = []
        for task in self._tasks:
            rng = Random(derive("random player", task.id))
            blind = (env.random_turn(rng) for _ in range(self._max_turns))
            rewards.append((await self._play(task, blind)).reward)
        mean, low, _ = interval(rewards)
        expect(low <= ceiling, f"mean reward {mean:.3f}, at least {low:.3f}, is above {ceiling:g}")
        return f"mean reward {mean:.3f} over {len(rewards)} tasks, ceiling {ceiling:g}"

    async def close_twice(self) -> None:
        """Close is idempotent."""
        async with self.episode(self._tasks[0]) as (env, _):
            await env.close()

    async def close_at_once(self) -> None:
        """Closes without an episode."""
        await self._make_env().close()


class _Score(NamedTuple):
    """How one episode went."""

    reward: float
    turns: int
    ended: bool


def interval(rewards: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % bounds by the normal approximation over tasks; rewards may be negative."""
    mean = fmean(rewards)
    spread = stdev(rewards) if len(rewards) > 1 else 0.0
    half = Z95 * spread / math.sqrt(len(rewards))
    return mean, mean - half, mean + half


def expect_observation(observation: object, *, fresh: bool = False) -> None:
    """An observation is a tuple of messages, none the assistant's outside a fresh context."""
    if not isinstance(observation, tuple):
        raise AssertionError(f"a tuple of messages, not {type(observation).__name__}")
    for message in cast(tuple[object, ...], observation):
        if not isinstance(message, Message):
            raise AssertionError(f"every item is a Message, not {type(message).__name__}")
        expect(fresh or message.role != "assistant", "only the model writes as assistant")


def expect_step(result: object) -> None:
    """Gymnasium's five fields, with their types and no contradiction."""
    if not isinstance(result, StepResult):
        raise AssertionError(f"a StepResult, not {type(result).__name__}")
    expect_observation(result.observation, fresh=result.info.context is not None)
    expect(math.isfinite(result.reward), f"the reward {result.reward!r} is not finite")
    flags: tuple[object, object] = (result.terminated, result.truncated)
    expect(all(type(flag) is bool for flag in flags), f"bools, not {flags}")
    expect(bool(result.observation) or any(flags), "the episode goes on, but nothing was answered")
