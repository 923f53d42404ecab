"""The promises of `agentrl.points.RolloutPlan`, over a small world in which everything may happen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from tempfile import TemporaryDirectory
from typing import TypeAlias

import numpy as np

from agentrl.chat.base import Renderer
from agentrl.chat.nano import NanoRenderer, build_nano_tokenizer
from agentrl.chat.protocols.retool import ReTool
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.engine.base import Sampling
from agentrl.engine.scripted import Reply, ScriptedEngine
from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.errors import EngineError
from agentrl.points import Ctx, RolloutPlan, Services
from agentrl.rollout.limits import Limits, Slots
from agentrl.rollout.loop import Episodes
from agentrl.rollout.parts import Parts
from agentrl.seeds import derive
from agentrl.testing.result import CheckResult, expect, promise, run_checks
from agentrl.trajectory import Group, Trajectory
from agentrl.transcript import SAMPLED, Int32Array, Origin
from agentrl.types import Message, Task, ToolResult

MakePlan: TypeAlias = Callable[[Renderer], RolloutPlan]
TASK = Task("two-and-two", "2 + 2?", "4")
TURNS = (
    "<answer>4</answer>", "so <answer>5</answer>", "x x x", "<think>x</think><answer>4</answer>",
    "<code></code>", "x <code>1</code>", "<code>2+2</code>", "<code>3+1</code>", "so <code>5-1</code>",
)  # fmt: skip
"""What the scripted policy writes: right, wrong, calling, unreadable, rambling."""
STEPS = 6


async def check_plan(make: MakePlan) -> list[CheckResult]:
    """Test a rollout plan against the contract.

    Args:
        make: makes a fresh plan; it is handed the renderer of the kit's model.
    """
    with TemporaryDirectory() as folder:
        build_nano_tokenizer(folder)
        kit = _Kit(make, NanoRenderer(load_tokenizer(folder)))
        return await run_checks(
            [
                promise(kit.whole),
                promise(kit.told_apart),
                promise(kit.behaviour),
                promise(kit.repeatable),
                promise(kit.other_steps),
                promise(kit.faults),
            ]
        )


class _Quiz(Env):
    """One question; a call is echoed after a while that `pace` draws, anything else ends it."""

    protocol = "retool"

    def __init__(self, pace: Random) -> None:
        self._pace = pace

    async def reset(self, task: Task, *, seed: int) -> Observation:
        return (Message("user", task.question),)

    async def step(self, action: Action) -> StepResult:
        if not action.tool_calls:
            right = f"<answer>{TASK.answer}</answer>" in action.text
            return StepResult((), float(right), True, False, StepInfo(answer=action.text))
        await asyncio.sleep(self._pace.random() * 0.01)
        results = tuple(ToolResult(call.id, "4") for call in action.tool_calls)
        messages = tuple(Message("tool", "4", call_id=c.id, name=c.name) for c in action.tool_calls)
        return StepResult(messages, 0.0, False, False, StepInfo(results=results))


class _Kit:
    def __init__(self, make: MakePlan, renderer: Renderer) -> None:
        self._make, self._renderer = make, renderer

    def _write(self, row: Int32Array, sampling: Sampling, index: int) -> Reply:
        text = self._renderer.tokenizer.decode(row)
        said = TURNS[derive(sampling.seed, len(text)) % len(TURNS)]
        ids = self._renderer.demo(said, ended=not said.endswith("</code>")).tolist()
        at = range(len(row), len(row) + len(ids))
        return Reply(ids, [declared(t) for t in at], [0.2 * (t % 5) for t in at])

    async def collect(self, step: int, *, pace: int = 0, broken: bool = False) -> Group:
        """One group of a fresh plan."""

        def write(row: Int32Array, sampling: Sampling, index: int) -> Reply:
            if broken:
                raise EngineError("the engine is lost")
            return self._write(row, sampling, index)

        delays = Random(pace)
        engine = ScriptedEngine(write, tokenizer=self._renderer.tokenizer)
        parts = Parts(
            make_env=lambda: _Quiz(delays),
            engine=engine,
            renderer=self._renderer,
            protocol=ReTool(fence=False),
            limits=Limits(max_turns=4),
            sampling=Sampling(max_tokens=1),
            tool_slots=Slots(64),
        )
        episodes = Episodes(parts, seed=7, retries=0)
        services = Services(episodes=episodes, partners={"self": engine})
        plan = self._make(self._renderer)
        return await plan.collect(TASK, services, Ctx(step=step, total_steps=50, seed=1))

    async def whole(self) -> str:
        """A group holds finished trajectories of its task."""
        group = await self.collect(0)
        expect(group.task == TASK, f"the group is of task {group.task.id}")
        expect(bool(group.trajectories), "the group is empty")
        expect(all(t.task.id == TASK.id for t in group.trajectories), "another task is among them")
        return f"{len(group.trajectories)} trajectories"

    async def told_apart(self) -> None:
        """Members have uids and sibling numbers of their own."""
        for step in range(STEPS):
            members = (await self.collect(step)).trajectories
            expect(len({t.uid for t in members}) == len(members), "two share a uid")
            expect(len({t.sibling for t in members}) == len(members), "two share a sibling number")

    async def behaviour(self) -> None:
        """Every token under the mask has a logprob that a policy declared."""
        for step in range(STEPS):
            for trajectory in (await self.collect(step)).trajectories:
                for row in trajectory.rows:
                    kept = all(
                        (s.logprobs is not None) == (s.origin in SAMPLED) for s in row.segments
                    )
                    expect(kept, "a segment's logprobs do not fit its origin")
                    expect(bool((row.logprobs <= 0).all()), "a logprob is above 0")
                    sampled = row.origins == int(Origin.MODEL)
                    said = np.array([declared(t) for t in range(len(row))], np.float32)
                    own = np.isclose(row.logprobs[sampled], said[sampled]).all()
                    expect(bool(own), "a sampled token does not carry what the engine said of it")

    async def repeatable(self) -> None:
        """The order in which tools answer changes nothing."""
        for step in range(STEPS):
            groups = [await self.collect(step, pace=pace) for pace in range(4)]
            first, *others = [[told(t) for t in group.trajectories] for group in groups]
            expect(all(o == first for o in others), f"step {step} gave two different groups")

    async def other_steps(self) -> None:
        """Another step samples anew."""
        groups = [await self.collect(step) for step in range(STEPS)]
        rows = {tuple(r for t in g.trajectories for _, r in told(t)[1]) for g in groups}
        expect(len(rows) > 1, f"{STEPS} steps gave one and the same group")

    async def faults(self) -> None:
        """A failure of the world is in the group, not raised."""
        group = await self.collect(0, broken=True)
        lost = [t for t in group.trajectories if t.error is None]
        expect(not lost, "a trajectory claims to be well although the engine was lost")


def declared(place: int) -> float:
    """What the scripted engine says of the token at a place of its row."""
    return -0.1 - 0.05 * (place % 7)


def told(trajectory: Trajectory) -> tuple[str, tuple[tuple[bytes, tuple[int, ...]], ...]]:
    """What of a trajectory must not depend on time: uid, and per row origins and ids."""
    rows = tuple((row.origins.tobytes(), tuple(row.token_ids.tolist())) for row in trajectory.rows)
    return trajectory.uid, rows


__all__ = ["MakePlan", "check_plan"]
