"""Contexts that the environment names: fresh rows, rows taken up again, partners it asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agentrl.engine.scripted import Reply
from agentrl.env import Action, Env, StepInfo, StepResult
from agentrl.points import Ctx
from agentrl.rollout.loop import Episodes
from agentrl.trajectory import StopReason
from agentrl.trajectory_json import from_line, to_line
from agentrl.types import Message

CTX = Ctx(step=0, total_steps=1, seed=1)


def on(text: str, context: str | None = None, by: str | None = None) -> StepResult:
    info = StepInfo(context=context, by=by)
    return StepResult((Message("user", text),), 0.0, False, False, info)


END = StepResult((), 1.0, True, False, StepInfo(answer="done"))


@pytest.fixture
def make(world: Any) -> Any:
    """Makes environments that answer each turn with the next of some steps."""

    def made(*steps: StepResult) -> Callable[[], Env]:
        def env() -> Env:
            coming = iter(steps)

            async def step(action: Action) -> StepResult:
                return next(coming)

            return world.bare(step=step)()

        return env

    return made


async def test_a_fresh_context_sees_nothing_said_before(world: Any, make: Any) -> None:
    engine = world.turns("first", "second")
    trajectory = await world.play(engine, make(on("part two", "two"), END))
    one, two = trajectory.rows
    assert (one.context, two.context) == ("", "two")
    prompt = world.renderer.prompt_ids((Message("user", "part two"),), ()).tolist()
    assert engine.rows[1] == prompt
    assert two.token_ids.tolist() == prompt + engine.generated[1]
    assert one.token_ids.tolist() == engine.rows[0] + engine.generated[0]
    sampled = [len(ids) for ids in engine.generated]
    assert [int(row.mask.sum()) for row in trajectory.rows] == sampled
    assert trajectory.stop is StopReason.TERMINATED
    assert from_line(to_line(trajectory)).rows[1].context == "two"


async def test_a_known_context_goes_on_behind_its_own_last_turn(world: Any, make: Any) -> None:
    engine = world.turns("a1", "b1", "a2", "b2", "a3")
    steps = (
        on("hello b", "b"),
        on("b said b1", ""),
        on("a said a2", "b"),
        on("b said b2", ""),
        END,
    )
    trajectory = await world.play(engine, make(*steps))
    b, a = trajectory.rows
    assert (b.context, a.context) == ("b", "")
    delta = [
        world.renderer.delta((Message("user", said),), ended=True)
        for said in ("b said b1", "b said b2")
    ]
    ids = [[t for span in spans for t in span.token_ids.tolist()] for spans in delta]
    assert a.token_ids.tolist() == (
        engine.rows[0] + engine.generated[0] + ids[0] + engine.generated[2] + ids[1]
        + engine.generated[4]
    )  # fmt: skip
    assert engine.rows[4] == a.token_ids.tolist()[: -len(engine.generated[4])]
    assert int(a.mask.sum()) == sum(len(engine.generated[i]) for i in (0, 2, 4))
    assert int(b.mask.sum()) == sum(len(engine.generated[i]) for i in (1, 3))


async def test_the_environment_asks_a_partner_to_write(world: Any, make: Any) -> None:
    engine, frozen = world.turns("ask", "thanks"), world.turns("solved")
    steps = (on("solve it", "work", "solver"), on("it says solved", ""), END)
    trajectory = await world.play(engine, make(*steps), partners={"solver": frozen})
    work, own = trajectory.rows
    assert len(engine.rows) == 2
    assert len(frozen.rows) == 1
    assert not work.mask.any()
    assert work.segments[-1].policy == "solver"
    assert int(own.mask.sum()) == sum(len(ids) for ids in engine.generated)
    assert [m.content for m in trajectory.messages if m.role == "assistant"] == [
        "ask", "solved", "thanks",
    ]  # fmt: skip


async def test_a_context_without_a_message_is_the_environments_fault(world: Any, make: Any) -> None:
    empty = StepResult((), 0.0, False, False, StepInfo(context="void"))
    trajectory = await world.play(world.turns("x"), make(empty))
    assert trajectory.stop is StopReason.ERROR
    assert "'void' without a message" in (trajectory.error or "")


async def test_first_messages_of_a_context_are_not_cut_like_observations(
    world: Any, make: Any
) -> None:
    long = "word " * 60
    trajectory = await world.play(
        world.turns("x"), make(on(long, "two"), END), observation_tokens=20
    )
    assert trajectory.messages[2].content == long


async def test_branches_inside_a_context_keep_the_others(world: Any, make: Any) -> None:
    def script(row: Any, sampling: Any, index: int) -> Reply:
        ids = world.renderer.demo("t", ended=True).tolist()
        return Reply(ids, [-0.5] * len(ids))

    steps = (on("two", "two"), on("more"), END)
    episodes = Episodes(world.parts(world.script(script), make(*steps)), seed=1)
    async with episodes.live(world.task, 0, CTX) as root:
        await root.write()
        await root.act()
        await root.write()
        (branch,) = await root.fork([1])
        for episode in (root, branch):
            while episode.stop is None:
                if not episode.complete:
                    await episode.write()
                await episode.act()
        ours, theirs = root.finish(), branch.finish()
    assert [row.context for row in theirs.rows] == ["", "two"]
    for mine, copied in zip(ours.rows, theirs.rows, strict=True):
        assert mine.token_ids.tolist() == copied.token_ids.tolist()
