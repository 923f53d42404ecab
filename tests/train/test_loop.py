"""The training loop's own promises: what a step reports, when it saves, what an interrupt leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from agentrl.config import RunConfig
from agentrl.errors import RunFailed
from agentrl.points import Ctx, Patch, Services
from agentrl.train import boundary, checkpoint, loop
from agentrl.train.assemble import assemble
from agentrl.train.exam import Exam
from agentrl.train.folder import RunFolder, create, fingerprint
from agentrl.train.metrics import JsonLines, keep_until
from agentrl.train.state import State
from agentrl.train.torch_learner import TorchLearner
from agentrl.trajectory import Group
from agentrl.types import Task

Dice = Callable[..., RunConfig]


@dataclass
class Made:
    """A run put together, with what it saved."""

    run: loop.Run
    state: State
    folder: RunFolder
    saves: list[tuple[int, bool]] = field(default_factory=list)

    async def train(self, **changes: Any) -> None:
        save = self.run.save

        def told(state: State, best: bool) -> None:
            self.saves.append((state.step, best))
            save(state, best)

        await loop.train(replace(self.run, save=told, **changes), self.state)


@pytest.fixture
def made(dice: Dice, tmp_path: Path, notes: Any) -> Callable[..., Made]:
    def make(**changes: Any) -> Made:
        config = dice(**changes)
        folder = RunFolder(tmp_path / "run")
        create(folder, config, "agentrl train")
        return Made(*assemble(config, folder, [notes], None), folder)

    return make


class Graded:
    """A plan whose evaluations score what a test wrote down, one number after another."""

    def __init__(self, made: Any, *scores: float) -> None:
        self.made, self.scores = made, list(scores)

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        score = self.scores.pop(0)
        rewards = [1.0] * round(4 * score) + [0.0] * round(4 * (1 - score))
        return Group(task, tuple(self.made.trajectory(task, i, r) for i, r in enumerate(rewards)))


async def test_a_step_reports(made: Callable[..., Made], notes: Any):
    run = made(train={"steps": 1})
    await run.train()
    ((step, metrics),) = notes.steps
    assert step == 0
    assert (metrics["groups"], metrics["rounds"], metrics["optimizer_steps"]) == (3.0, 1.0, 1.0)
    assert metrics["lr"] == 0.01
    assert 0 <= metrics["probe_gap"] < 1e-4
    assert metrics["gap_max"] < 1e-4
    assert metrics["time_s"] >= metrics["rollout_s"] + metrics["learner_s"] > 0
    assert metrics["stale_share"] == 0.0
    assert "eval/accuracy" not in metrics


async def test_saves_by_hand(made: Callable[..., Made], hand: Any):
    """Evaluated at 0, 2, 4, 6 with 0.5, 0.25, 0.75, 0.75; every third step is a checkpoint.

    Step 4 is better than all before; step 6 only as good. The last step is saved once.
    """
    run = made(train={"steps": 6})
    plan = Graded(hand, 0.5, 0.25, 0.75, 0.75)
    await run.train(exam=Exam(2, [hand.task("e")], plan, run.run.exam.services))
    assert run.saves == [(3, False), (4, True), (6, False)]
    assert run.state.best == 0.75
    best, latest = (
        checkpoint.best(run.folder.checkpoints),
        checkpoint.latest(run.folder.checkpoints),
    )
    assert (best.name, latest.name) == ("step-000004", "step-000006")  # type: ignore[union-attr]


async def test_evaluations_are_in_the_metrics_of_the_step_they_follow(
    made: Callable[..., Made], hand: Any, notes: Any
):
    run = made(train={"steps": 3})
    plan = Graded(hand, 0.0, 0.5, 1.0)
    await run.train(exam=Exam(2, [hand.task("e")], plan, run.run.exam.services))
    assert [m.get("eval/accuracy") for _, m in notes.steps] == [None, 0.5, 1.0]
    assert [note.partition(":")[0] for note in notes.notes] == ["step 0", "step 2", "step 3"]
    assert notes.notes[1].startswith("step 2: accuracy 0.500 (95 % ")


async def test_the_best_checkpoint_knows_its_own_step(made: Callable[..., Made], hand: Any):
    """Killed right after it, the run resumes with that step's metrics and line."""
    run = made(train={"steps": 2})
    seen: list[tuple[int, bool, int]] = []
    lines = run.folder.metrics

    def save(state: State, best: bool) -> None:
        seen.append((state.step, best, len(lines.read_text().splitlines())))
        assert "eval/accuracy" in state.past[-1]

    plan = Graded(hand, 0.0, 0.5, 1.0)
    await loop.train(
        replace(run.run, save=save, exam=Exam(1, [hand.task("e")], plan, run.run.exam.services)),
        run.state,
    )
    assert seen == [(1, True, 1), (2, True, 2)]


class FailingSync:
    """A sync that raises at its n-th call."""

    def __init__(self, sync: Any, at: int, error: BaseException) -> None:
        self.sync, self.left, self.error = sync, at, error

    async def __call__(self) -> float:
        self.left -= 1
        if self.left == 0:
            raise self.error
        return await self.sync()


async def test_an_interrupt_in_the_sync_leaves_the_new_boundary(
    made: Callable[..., Made], notes: Any
):
    """The third sync is that of the second step: its update counts, its line is written."""
    run = made()
    sync = FailingSync(run.run.sync, 3, asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await run.train(sync=sync)
    assert run.saves == [(2, False)]
    assert [step for step, _ in notes.steps] == [0, 1]
    assert "probe_gap" not in notes.steps[1][1]


async def test_an_interrupt_before_the_first_step_saves_nothing(made: Callable[..., Made]):
    run = made()
    with pytest.raises(asyncio.CancelledError):
        await run.train(sync=FailingSync(run.run.sync, 1, asyncio.CancelledError()))
    assert run.saves == []


async def test_an_interrupted_rollout_leaves_the_old_boundary(made: Callable[..., Made]):
    """Cancelled while the second step's episodes are under way."""
    run = made(env={"pause_s": 0.02})
    training = asyncio.ensure_future(run.train())
    async with asyncio.timeout(60):
        while run.state.step < 1:  # noqa: ASYNC110  the loop offers no event to wait for
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.03)
    training.cancel()
    with pytest.raises(asyncio.CancelledError):
        await training
    assert run.saves == [(1, False)]
    assert run.run.learner.version == 1


async def test_an_interrupted_step_leaves_what_it_had_finished(made: Callable[..., Made]):
    """One episode of the second step is over, the others hang: it is in the folder, once, without
    a shaped reward, and a resumed run puts its own in its place."""
    run = made()
    runner = run.run.method.services.episodes
    play = runner.run
    over = asyncio.Event()

    async def hanging(task: Task, sibling: int, ctx: Ctx, opening: Any = None) -> Any:
        if ctx.step == 1 and sibling > 0:
            await over.wait()
            await asyncio.sleep(60)
        found = await play(task, sibling, ctx, opening)
        if ctx.step == 1:
            over.set()
        return found

    runner.run = hanging  # type: ignore[method-assign]
    training = asyncio.ensure_future(run.train())
    async with asyncio.timeout(60):
        await over.wait()
        await asyncio.sleep(0.2)
    training.cancel()
    with pytest.raises(asyncio.CancelledError):
        await training
    lines = [json.loads(line) for line in run.folder.trajectories.read_text().splitlines()]
    late = [line for line in lines if line["uid"].startswith("1/")]
    assert 0 < len(late) < 12
    assert len({line["uid"] for line in lines}) == len(lines)
    assert {line["reward"] for line in late} == {None}
    keep_until(run.folder.trajectories, 1)
    assert len(run.folder.trajectories.read_text().splitlines()) == len(lines) - len(late)


async def test_a_learner_ahead_of_its_step_is_never_saved(made: Callable[..., Made]):
    """The disk fills up while the second step's trajectories are written: no checkpoint may hold
    weights that had two updates and a step count of one."""
    run = made()
    kept: list[str] = []

    def keep(trajectory: Any) -> None:
        kept.append(trajectory.uid)
        if len(kept) == 15:
            raise RunFailed("the disk is full")

    with pytest.raises(RunFailed, match="the disk is full"):
        await run.train(keep=keep)
    assert (run.state.step, run.run.learner.version) == (1, 2)
    assert run.saves == []


async def test_a_boundary_comes_back(made: Callable[..., Made], dice: Dice, tiny: Path):
    """History, source, best, past metrics (NaN too), patch, queue and the learner."""
    run = made()
    history = run.state.history
    from agentrl.history import Write

    history.commit([Write("n", "t", 2.0, "sum", "u")])
    state = replace(
        run.state, step=4, source={"drawn": 9}, best=0.5,
        past=({"reward": 1.0}, {"reward": 0.25, "productivity": float("nan"), "kl": float("inf")}),
        patch=Patch(temperature=0.5, scales={"policy": 2.0}),
        failed=(Task("f", "?", "1", {"level": 3}, 7),),
    )  # fmt: skip
    config = dice()
    boundary.save(config, run.folder, run.run.learner, state, best=True)
    found = checkpoint.latest(run.folder.checkpoints)
    assert found is not None
    back = boundary.load(found, TorchLearner(tiny), fingerprint(config))
    assert (back.step, back.saved, back.best, back.source) == (4, 4, 0.5, {"drawn": 9})
    assert back.history.to_json() == history.to_json()
    assert str(back.past) == str(state.past)
    assert (back.patch, back.failed) == (state.patch, state.failed)
    boundary.save(config, run.folder, run.run.learner, State(step=5), best=False)
    latest = checkpoint.latest(run.folder.checkpoints)
    assert latest is not None
    assert boundary.load(latest, TorchLearner(tiny), fingerprint(config)).best == float("-inf")


async def test_schedules_set_the_rate_of_their_step(made: Callable[..., Made], notes: Any):
    """And see the metrics of the step before."""

    class Ramp:
        seen: list[Mapping[str, float]] = []  # noqa: RUF012

        def at(self, ctx: Ctx) -> Patch:
            self.seen.append(ctx.metrics)
            return Patch(lr=0.001 * (ctx.step + 1))

    run = made(train={"steps": 3})
    await run.train(update=replace(run.run.update, schedules=(Ramp(),)))
    assert [m["lr"] for _, m in notes.steps] == pytest.approx([0.001, 0.002, 0.003])
    assert Ramp.seen[0] == {}
    assert [m["reward"] for m in Ramp.seen[1:]] == [m["reward"] for _, m in notes.steps[:2]]


async def test_history_is_committed_and_the_source_told_once_a_step(made: Callable[..., Made]):
    """Dropped groups included."""
    from agentrl.history import HistoryStore, Write
    from agentrl.points import Drop, Keep, Shaped

    seen: list[float | None] = []
    told: list[tuple[int, int]] = []

    def shaper(group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        seen.append(history.get("steps", "all"))
        writes = [Write("steps", "all", 1.0, "sum", t.uid) for t in group.trajectories]
        return shaped._replace(writes=tuple(writes))

    def gate(group: Group, history: HistoryStore, ctx: Ctx) -> Any:
        return Drop("even") if int(group.task.id.split("/")[1]) % 2 == 0 else Keep()

    run = made(train={"steps": 2})
    source = run.run.method.source
    observe = source.observe

    def told_of(groups: Sequence[Group], ctx: Ctx) -> None:
        told.append((ctx.step, len(groups)))
        observe(groups, ctx)

    source.observe = told_of  # type: ignore[method-assign]
    await run.train(method=replace(run.run.method, shapers=(shaper,), gate=gate))
    assert told == [(0, 3), (1, 3)]
    assert seen == [None] * 3 + [12.0] * 3
    assert run.state.history.get("steps", "all") == 24.0


async def test_gate_counts_are_reported(made: Callable[..., Made], notes: Any):
    from agentrl.points import Drop, Keep

    run = made(train={"steps": 1})
    first: list[str] = []

    def gate(group: Group, *_: Any) -> Any:
        first.append(group.task.id)
        return Drop("first") if len(first) == 1 else Keep()

    await run.train(method=replace(run.run.method, gate=gate, rounds=2))
    metrics = notes.steps[0][1]
    assert (metrics["groups"], metrics["rounds"], metrics["gate/first"]) == (3.0, 2.0, 1.0)


async def test_a_rate_of_zero_learns_nothing(made: Callable[..., Made], tiny: Path):
    run = made(learner={"lr": 0.0}, train={"steps": 2})
    fresh = TorchLearner(tiny)
    await run.train()
    probe = run.run.sync.probe
    assert run.run.learner.score(probe).tolist() == fresh.score(probe).tolist()


async def test_an_advantage_that_is_not_finite_crashes(made: Callable[..., Made]):
    run = made()

    def broken(batch: Any, ctx: Ctx) -> Any:
        return batch.mask.float() * float("nan")

    with pytest.raises(ValueError, match="an advantage is not finite"):
        await run.train(update=replace(run.run.update, advantage=broken))


async def test_engine_and_pool_are_closed_whatever_happens(made: Callable[..., Made]):
    run = made()
    closed: list[str] = []
    engine = run.run.engine
    close = engine.close

    async def closing() -> None:
        closed.append("engine")
        await close()

    class Pool:
        async def open(self) -> None: ...

        async def close(self) -> None:
            closed.append("pool")

    engine.close = closing  # type: ignore[method-assign]
    with pytest.raises(RunFailed):
        await run.train(sync=FailingSync(run.run.sync, 1, RunFailed("x")), pool=Pool())
    assert closed == ["engine", "pool"]


async def test_metrics_are_on_disk_after_every_step(made: Callable[..., Made]):
    run = made(train={"steps": 2})
    sizes: list[int] = []

    class Watch(JsonLines):
        def step(self, step: int, metrics: Mapping[str, float]) -> None:
            super().step(step, metrics)
            sizes.append(len(run.folder.metrics.read_text().splitlines()))

    await run.train(sinks=[Watch(run.folder.metrics)])
    assert sizes == [1, 2]
