"""Live episodes: written in parts, branched with worlds of their own, replayed where they must be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from agentrl.engine.base import Sampling
from agentrl.engine.scripted import Reply
from agentrl.env import Action, Observation, StepInfo, StepResult
from agentrl.episode import Opening
from agentrl.points import Ctx
from agentrl.rollout.loop import Episodes, played_out
from agentrl.trajectory import StopReason
from agentrl.transcript import Origin
from agentrl.types import Message, Task
from agentrl_envs.tool_env import ToolEnv

CTX = Ctx(step=2, total_steps=5, seed=1)
CALL = "<code>step</code>"


class Counter(ToolEnv):
    """Each call adds one to a number that belongs to the episode; an answer ends it."""

    def __init__(self, made: list[Counter], *, drift: Sequence[int] = ()) -> None:
        super().__init__()
        self.count, self.drift = 0, sum(drift)
        made.append(self)

    def first_messages(self, task: Task) -> Observation:
        return (Message("user", task.question),)

    async def step(self, action: Action) -> StepResult:
        if not action.tool_calls:
            return StepResult((), float(self.count), True, False, StepInfo(answer=action.text))
        self.count += 1
        call = action.tool_calls[0]
        shown = Message("tool", str(self.count + self.drift), call_id=call.id, name=call.name)
        return StepResult((shown,), 0.0, False, False, StepInfo())

    async def judge(self, action: Action) -> StepResult:
        raise AssertionError


class Unforkable(Counter):
    """The same world, which can only be played again."""

    fork = None  # type: ignore[assignment]


def script(world: Any) -> Callable[..., Reply]:
    """Two calls, then an answer; by what the row holds, so branches go on where they stand."""

    def write(row: Any, sampling: Sampling, index: int) -> Reply:
        text = world.renderer.tokenizer.decode(np.asarray(row))
        turn = CALL if text.count("</code>") < 2 else "done"
        ids = world.renderer.demo(turn, ended=turn == "done").tolist()
        return Reply(ids, [-0.5] * len(ids), [0.25] * len(ids))

    return write


@pytest.fixture
def runner(world: Any) -> Callable[..., tuple[Episodes, list[Counter]]]:
    def make(kind: type[Counter] = Counter, **options: Any) -> tuple[Episodes, list[Counter]]:
        made: list[Counter] = []
        parts = world.parts(world.script(script(world)), lambda: kind(made, **options))
        return Episodes(parts, seed=7), made

    return make


async def test_branches_share_the_prefix_and_nothing_else(world: Any, runner: Any) -> None:
    episodes, made = runner()
    async with episodes.live(world.task, 0, CTX) as root:
        assert await root.write() is not None
        assert await root.act()
        await root.write()
        (branch,) = await root.fork([5])
        assert len(made) == 1, "a forkable environment is copied, not made again"
        assert branch.row.token_ids.tolist() == root.row.token_ids[: root.turn_start].tolist()
        first = await played_out(root)
        second = await played_out(branch)
    assert (first.uid, second.uid, second.parent) == ("2/t/0", "2/t/5", "2/t/0")
    assert first.rewards == second.rewards == {"env": 2.0}, "each world counted its own calls"
    assert (first.stop, second.stop) == (StopReason.TERMINATED,) * 2
    n = second.fork_tokens
    assert n is not None
    assert first.rows[0].token_ids[:n].tolist() == second.rows[0].token_ids[:n].tolist()
    assert second.seed != first.seed


@pytest.mark.parametrize("kind", [Counter, Unforkable])
async def test_a_branch_before_the_turn_replays_what_was_done(
    world: Any, runner: Any, kind: type[Counter]
) -> None:
    episodes, made = runner(kind)
    async with episodes.live(world.task, 0, CTX) as root:
        starts = [root.turn_start]
        for _ in range(2):
            await root.write()
            await root.act()
            starts.append(root.turn_start)
        (early,) = await root.fork([1], at=starts[1])
        assert len(made) == 2
        assert early.n_turns == 1
        played = await played_out(early)
    assert played.rewards == {"env": 2.0}
    assert played.fork_tokens == starts[1]
    assert [m.role for m in played.messages] == ["user", "assistant", "tool"] * 1 + [
        "assistant", "tool", "assistant",
    ]  # fmt: skip


async def test_a_world_that_answers_otherwise_fails_the_branch(world: Any, runner: Any) -> None:
    drift: list[int] = []
    episodes, _ = runner(Unforkable, drift=drift)
    async with episodes.live(world.task, 0, CTX) as root:
        await root.write()
        await root.act()
        drift.append(3)
        (branch,) = await root.fork([1])
        assert branch.stop is StopReason.ERROR
        failed = await played_out(branch)
        assert (await played_out(root)).error is None
    assert failed.error is not None
    assert "answered differently" in failed.error


async def test_a_turn_written_in_parts_is_one_turn(world: Any, runner: Any) -> None:
    episodes, _ = runner()
    whole = await episodes.run(world.task, 0, CTX)
    async with episodes.live(world.task, 0, CTX) as episode:
        wanted = world.renderer.demo(CALL).tolist()
        part = await episode.write(max_tokens=3, entropies=True)
        assert part is not None
        assert part.entropies is not None
        assert (part.token_ids.tolist(), episode.complete) == (wanted[:3], False)
        episode.place(world.renderer.tokenizer.decode(wanted[3:5]))
        episode.force(wanted[5:], [-0.1] * len(wanted[5:]))
        assert episode.text == CALL
        assert await episode.act()
        played = await played_out(episode)
    assert played.rewards == whole.rewards
    assert played.rows[0].token_ids.tolist() == whole.rows[0].token_ids.tolist()
    assert played.n_turns == whole.n_turns == 3
    origins = [int(s.origin) for s in played.rows[0].segments[:4]]
    assert origins == [Origin.PROMPT, Origin.MODEL, Origin.SCAFFOLD, Origin.FORCED]


async def test_a_renewed_row_keeps_both(world: Any, runner: Any) -> None:
    episodes, _ = runner()
    async with episodes.live(world.task, 0, CTX) as episode:
        await episode.write(max_tokens=2)
        prompt = episode.row.token_ids[:3].tolist()
        kept = episode.text
        episode.renew(prompt)
        assert (len(episode.row), episode.text) == (3, kept)
        played = await played_out(episode)
    assert len(played.rows) == 2
    assert played.rows[1].token_ids[:3].tolist() == prompt


async def test_an_opening_is_read_under_one_prompt_and_trained_under_another(
    world: Any, runner: Any
) -> None:
    episodes, _ = runner()
    plain = await episodes.run(world.task, 0, CTX)
    hint = Opening(
        lambda first: (*first[:-1], Message("user", first[-1].content + " Hint.")),
        train="plain",
        ratio_mode="relabel",
    )
    hinted = await episodes.run(world.task, 1, CTX, hint)
    row = hinted.rows[0]
    n = len(plain.rows[0].segments[0])
    assert row.train_context is not None
    assert row.train_context.tolist() == plain.rows[0].token_ids[:n].tolist()
    assert (row.ratio_mode, len(row.segments[0]) > n) == ("relabel", True)


async def test_a_branch_behind_a_whole_turn_has_it_complete(world: Any, runner: Any) -> None:
    episodes, _ = runner()
    async with episodes.live(world.task, 0, CTX) as root:
        await played_out(root)
        n = len(root.row)
        assert int(root.row.token_ids[-1]) == world.renderer.stop_ids[0]
        (branch,) = await root.fork([1], at=n)
        assert branch.complete
        assert branch.text == "done"
        await branch.act()
        assert branch.finish().messages == root.finish().messages


async def test_every_finished_branch_is_told_as_it_ends(world: Any, runner: Any) -> None:
    _, made = runner()
    parts = world.parts(world.script(script(world)), lambda: Counter(made))
    heard: list[str] = []
    episodes = Episodes(parts, seed=7, finished=lambda trajectory: heard.append(trajectory.uid))

    async def failing_plan() -> None:
        async with episodes.live(world.task, 0, CTX) as root:
            await root.write()
            (branch,) = await root.fork([1])
            await played_out(branch)
            raise RuntimeError("the plan fails")

    with pytest.raises(RuntimeError, match="the plan fails"):
        await failing_plan()
    assert heard == ["2/t/1"]
