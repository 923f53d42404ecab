"""Overlapped runs of the toy environment: the real engine, the real learner, real faults."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agentrl.config import RunConfig
from agentrl.engine.base import Sampling
from agentrl.engine.transformers import TransformersEngine
from agentrl.errors import EngineError, RunFailed, UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.plans.sample import Sample
from agentrl.train import checkpoint, loop
from agentrl.train.assemble import assemble
from agentrl.train.exam import Exam
from agentrl.train.folder import RunFolder, create
from agentrl.train.off_loop import off_loop
from agentrl.train.scorer import LearnerScorer
from agentrl.train.state import State
from agentrl.train.sync import Sync
from agentrl.train.torch_learner import TorchLearner
from agentrl.trajectory import Group
from agentrl.transcript import Origin, ids_array
from agentrl.types import Task

Dice = Callable[..., RunConfig]
MODES = ("sync", "one_step_off", "async")
OVERLAPPED = MODES[1:]


@dataclass
class Made:
    """A run put together, and what it left."""

    config: RunConfig
    run: loop.Run
    state: State
    folder: RunFolder
    written: list[Any] = field(default_factory=list)

    async def train(self, **changes: Any) -> None:
        keep = self.run.keep

        def told(trajectory: Any) -> None:
            self.written.append(trajectory)
            keep(trajectory)

        async with asyncio.timeout(120):
            await loop.train(replace(self.run, keep=told, **changes), self.state)

    @property
    def saved(self) -> int:
        """Step of the newest checkpoint."""
        found = checkpoint.latest(self.folder.checkpoints)
        return 0 if found is None else int(found.name.partition("-")[2])


@pytest.fixture
def made(dice: Dice, tmp_path: Path, notes: Any) -> Callable[..., Made]:
    def make(**changes: Any) -> Made:
        config = dice(**changes)
        folder = RunFolder(tmp_path / f"run{len(list(tmp_path.iterdir()))}")
        create(folder, config, "agentrl train")
        return Made(config, *assemble(config, folder, [notes], None), folder)

    return make


async def test_every_token_carries_the_logprob_of_its_own_weights(
    made: Callable[..., Made], tiny: Path
):
    """Under `async` with updates in flight: each version's weights are kept and asked again. The
    policy's logprobs at the update are another matter, recomputed by the learner."""
    run = made(train={"mode": "async", "steps": 8}, env={"pause_s": 0.01})
    weights: dict[int, Any] = {}
    sync, learner = run.run.sync, run.run.learner
    assert isinstance(learner, TorchLearner)

    async def keeping() -> float:
        weights[learner.version] = learner.state()
        return await sync()

    await run.train(sync=keeping)
    mixed = [
        row
        for t in run.written
        for row in t.rows
        if len({s.version for s in row.segments if s.origin is Origin.MODEL}) > 1
    ]
    assert mixed
    again = TorchLearner(tiny)
    for row in mixed[:6]:
        for version in sorted(set(row.versions[row.versions >= 0].tolist())):
            again.restore(weights[version])
            own = row.versions == version
            difference = np.abs(again.score(row.token_ids)[own] - row.logprobs[own])
            assert difference.max() < 1e-4


@pytest.mark.parametrize("mode", OVERLAPPED)
async def test_what_a_step_reports(made: Callable[..., Made], notes: Any, mode: str):
    run = made(train={"mode": mode, "steps": 5}, env={"pause_s": 0.01})
    await run.train()
    bound = 1.0 if mode == "one_step_off" else 2.0
    for step, metrics in notes.steps:
        assert metrics["staleness/mean"] <= metrics["staleness/max"] <= min(bound, step)
        assert 0 <= metrics["idle/learner"] <= 1
        assert 0 <= metrics["idle/rollouts"] <= 1
        assert metrics["optimizer_steps"] == 1
        assert metrics["probe_gap"] < 1e-4
    assert notes.steps[-1][1]["staleness/max"] > 0
    last = notes.steps[-1][1]
    assert last["stale_share"] > 0
    assert last["drift_mean"] > 0  # the learner's logprobs are not the recorded ones
    assert last["weight_mean"] != 1  # and the correction weighs the difference
    assert last["ppo_kl"] == 0  # while the ratio is taken against the learner's own
    assert run.run.learner.version == 5


@pytest.mark.parametrize("mode", MODES)
async def test_an_engine_that_dies_mid_generation_ends_the_run(
    made: Callable[..., Made], mode: str
):
    """During the third step. What was finished is on disk, the last boundary is saved; the flow may
    have had one more batch in its queue."""
    run = made(train={"mode": mode}, rollout={"retries": 0}, env={"pause_s": 0.005})

    def dying() -> Any:
        if run.state.step == 2 and any(not row.request.scoring for row in backend._rows):
            raise MemoryError("no memory left")
        return step()

    keep = run.run.keep
    backend: Any = None
    step: Any = None

    def armed(trajectory: Any) -> None:
        nonlocal backend, step
        if backend is None:
            backend = run.run.engine._thread.backend  # type: ignore[attr-defined]
            step = backend.step
            backend.step = dying
        keep(trajectory)

    run.run = replace(run.run, keep=armed)
    with pytest.raises(RunFailed) as raised:
        await run.train()
    assert "engine transformers died: MemoryError: no memory left" in str(raised.value)
    assert run.saved == run.state.step
    # Beside an update the next step's groups may be played before the engine dies.
    assert run.state.step in ((2,) if mode == "sync" else (2, 3, 4))
    assert len(run.written) == run.state.step * 12


@pytest.mark.parametrize("mode", MODES)
async def test_a_sync_that_stops_half_way_ends_the_run(made: Callable[..., Made], mode: str):
    """The third sync hands over one parameter only. The engine is dead, nobody waits for it, and
    the message says how to go on; the update that came before it is kept."""
    run = made(train={"mode": mode}, env={"pause_s": 0.005})
    learner: Any = run.run.learner
    export, calls = learner.export, [0]

    def half() -> Any:
        calls[0] += 1
        if calls[0] < 3:
            return export()
        first = next(iter(export()))
        name = next(iter(first))
        return iter([{name: first[name]}])

    learner.export = half
    with pytest.raises(RunFailed) as raised:
        await run.train()
    told = str(raised.value)
    assert told.startswith("the engine did not take version 2 (")
    assert "parameters never arrived" in told
    folder = run.folder.path
    assert told.endswith(f"resume with `agentrl train @{folder}/config.yaml resume={folder}`")
    assert run.saved == run.state.step == 2
    with pytest.raises(EngineError):
        await run.run.engine.generate(ids_array([1, 2]), Sampling(max_tokens=2))


async def test_a_bug_between_two_buckets_hangs_nobody(tiny: Path):
    """A generation is under way when the learner's export raises: it fails, it does not wait."""
    learner = TorchLearner(tiny)
    engine = TransformersEngine(tiny, max_batch=2, max_context=128)
    await engine.open()
    whole = learner.export()

    class Broken:
        version = 1

        def export(self) -> Any:
            yield next(iter(whole))
            raise ZeroDivisionError("a bug")

    async def writing() -> None:
        with pytest.raises(EngineError, match="was closed"):
            await engine.generate(ids_array([1, 2]), Sampling(max_tokens=120))

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(writing())
        await asyncio.sleep(0)
        with pytest.raises(ZeroDivisionError):
            await Sync(Broken(), engine, ids_array([1, 2, 3]), "float32")()  # type: ignore[arg-type]


async def test_an_evaluation_is_played_under_the_version_of_its_boundary(
    made: Callable[..., Made], hand: Any
):
    """While the flow's own episodes go on. Every second of six steps is followed by one."""
    run = made(train={"mode": "async", "steps": 6}, env={"pause_s": 0.01}, eval={"every": 2})
    seen: list[tuple[int, set[int], int]] = []
    begun: list[str] = []
    during = False
    plan, sample = run.run.method.plan, Sample(group_size=2)

    class Watched:
        async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
            if during:
                begun.append(task.id)
            return await plan.collect(task, services, ctx)

    class Asked:
        async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
            nonlocal during
            during = True
            group = await sample.collect(task, services, ctx)
            during = False
            versions = {v for t in group.trajectories for r in t.rows for v in r.versions.tolist()}
            seen.append((run.state.step, versions - {-1}, run.run.learner.version))
            return group

    exam = Exam(2, [hand.task("e")], Asked(), run.run.exam.services)
    await run.train(exam=exam, method=replace(run.run.method, plan=Watched()))
    assert seen == [(0, {0}, 0), (2, {2}, 2), (4, {4}, 4), (6, {6}, 6)]
    assert begun == []


class Counting:
    """A plan that learns: how many groups it has been told of, and at which steps."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []
        self._plan = Sample(group_size=4)

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        return await self._plan.collect(task, services, ctx)

    def observe(self, groups: Sequence[Group], ctx: Ctx) -> None:
        assert all(t.reward is not None for g in groups for t in g.trajectories)
        self.told.append((ctx.step, len(groups)))

    def state(self) -> Mapping[str, Any]:
        return {"told": [list(pair) for pair in self.told]}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.told = [(int(a), int(b)) for a, b in state["told"]]


def counting(*, group_size: int) -> Counting:
    """As a stranger's plan is found."""
    return Counting()


def plan_of(run: loop.Run) -> Any:
    """Its class was loaded from this file a second time, so it is no `Counting` of ours."""
    assert type(run.method.plan).__name__ == "Counting"
    return run.method.plan


@pytest.mark.parametrize("mode", MODES)
async def test_a_plan_that_learns_is_told_at_boundaries_and_restored(
    made: Callable[..., Made], mode: str, notes: Any
):
    """Four steps and a checkpoint; the run put together from it goes on with what was learnt. The
    evaluation's plan is told nothing."""
    plan = {"plan": {"name": f"{__file__}:counting"}}
    run = made(train={"mode": mode, "steps": 4}, rollout=plan, eval={"every": 4, "tasks": 2})
    await run.train()
    assert plan_of(run.run).told == [(step, 3) for step in range(4)]
    assert run.saved == 4
    found = checkpoint.latest(run.folder.checkpoints)
    again, state = assemble(run.config, run.folder, [notes], found)
    assert plan_of(again).told == [(step, 3) for step in range(4)]
    assert (state.step, state.written) == (4, 48)


@pytest.mark.parametrize("mode", OVERLAPPED)
async def test_an_interrupt_during_the_update_leaves_the_new_boundary(
    made: Callable[..., Made], mode: str, notes: Any
):
    """Ctrl-C arrives while the second update computes on its thread: it is finished, written, saved
    and only then does the run end."""
    run = made(train={"mode": mode}, env={"pause_s": 0.002})
    learner: Any = run.run.learner
    update, main = learner.update, asyncio.current_task()
    event_loop, computed = asyncio.get_running_loop(), []
    assert main is not None

    def slow(*args: Any, **options: Any) -> Any:
        assert threading.current_thread().name == "learner"
        if len(computed) == 1:
            event_loop.call_soon_threadsafe(training.cancel)
            time.sleep(0.2)
        computed.append(1)
        return update(*args, **options)

    learner.update = slow
    training = asyncio.ensure_future(run.train())
    with pytest.raises(asyncio.CancelledError):
        await training
    assert run.saved == run.state.step == learner.version == 2
    assert [step for step, _ in notes.steps] == [0, 1]
    assert len(run.written) == 24


@pytest.mark.parametrize("mode", OVERLAPPED)
async def test_tools_are_waited_for_while_the_learner_computes(
    made: Callable[..., Made], mode: str
):
    """The second update does not go on before a group is finished beside it."""
    run = made(train={"mode": mode, "steps": 4}, env={"pause_s": 0.05})
    learner: Any = run.run.learner
    update, answered, during = learner.update, [0], []
    step = run.run.method.plan.collect

    async def collect(task: Task, services: Services, ctx: Ctx) -> Group:
        group = await step(task, services, ctx)
        answered[0] += 1
        return group

    def slow(*args: Any, **options: Any) -> Any:
        before, ends = answered[0], time.monotonic() + 30
        during.append(before)
        while len(during) == 2 and answered[0] == before and time.monotonic() < ends:
            time.sleep(0.005)
        during[-1] = answered[0] - before
        return update(*args, **options)

    learner.update = slow
    run.run.method.plan.collect = collect  # type: ignore[method-assign]
    await run.train()
    assert during[1] > 0


@pytest.mark.parametrize("mode", MODES)
async def test_checkpoints_are_written_beside_the_episodes(made: Callable[..., Made], mode: str):
    run = made(train={"mode": mode, "steps": 2, "checkpoint_every": 1})
    threads: list[str] = []
    save = run.run.save

    def told(state: State, best: bool) -> None:
        threads.append(threading.current_thread().name)
        save(state, best)

    await run.train(save=told)
    main = threading.current_thread().name
    assert threads == [main if mode == "sync" else "learner"] * 2
    assert run.saved == 2


def test_correction_is_on_by_default_where_it_is_needed(dice: Dice):
    """TIS at token level under the overlapped modes; what the user says stands; sync is as it was."""
    assert dice().algo.offpolicy.level == "off"
    for mode in OVERLAPPED:
        assert dice(train={"mode": mode}).algo.offpolicy.level == "token"
        told = dice(train={"mode": mode}, algo={"offpolicy": {"level": "off"}})
        assert told.algo.offpolicy.level == "off"
        bypass = dice(train={"mode": mode}, algo={"offpolicy": {"old": "behaviour"}})
        assert bypass.algo.offpolicy.level == "off"
        capped = dice(train={"mode": mode}, algo={"offpolicy": {"high": 5.0}})
        assert (capped.algo.offpolicy.level, capped.algo.offpolicy.high) == ("token", 5.0)


def test_the_correction_is_written_down(made: Callable[..., Made]):
    run = made(train={"mode": "async"})
    assert run.folder.config().algo.offpolicy.level == "token"
    assert "mode: async" in (run.folder.path / "config.yaml").read_text()
    assert run.run.update.correction.level == "token"


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({"max_staleness": 1}, "train.max_staleness bounds train.mode=async, not sync"),
        ({"mode": "one_step_off", "max_staleness": 1}, "train.mode=async, not one_step_off"),
        ({"mode": "async", "deterministic": True}, r"cannot promise train\.deterministic=true"),
    ],
)
def test_settings_that_do_not_go_together(
    made: Callable[..., Made], train: dict[str, Any], told: str
):
    with pytest.raises(UserError, match=told):
        made(train=train)


@pytest.mark.parametrize("mode", OVERLAPPED)
async def test_a_tool_that_never_answers_is_named(made: Callable[..., Made], mode: str):
    """`train.stuck_s` reaches the watchdog."""
    run = made(train={"mode": mode, "stuck_s": 1.0}, env={"pause_s": 600.0})
    with pytest.raises(RunFailed, match=r"task train/1 for \d+ s \(begun under version 0\)"):
        await run.train()


async def test_the_process_keeps_its_setting_of_deterministic_algorithms(
    made: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
):
    """It is the process's: a learner that turned it over would change what the engine's thread
    computes at the same time, and kill a vLLM that compiles."""
    seen: set[bool] = set()
    real = torch.use_deterministic_algorithms

    def told(mode: bool, **options: Any) -> None:
        seen.add(mode)
        real(mode, **options)

    monkeypatch.setattr(torch, "use_deterministic_algorithms", told)
    await made(train={"mode": "async", "steps": 2}).train()
    assert seen == {False}


async def test_bounds_are_honoured(made: Callable[..., Made], notes: Any):
    """With a bound of 0 nothing overlaps, and everything is on-policy."""
    run = made(train={"mode": "async", "max_staleness": 0, "steps": 4})
    await run.train()
    assert [m["staleness/max"] for _, m in notes.steps] == [0.0] * 4
    assert all(m["gap_max"] < 1e-4 for _, m in notes.steps)


async def test_a_scorer_waits_for_the_update(tiny: Path):
    """Rewards that ask the learner never read weights that are being changed."""
    learner, busy = TorchLearner(tiny), asyncio.Lock()
    scorer = LearnerScorer(learner, busy)
    async with busy:
        asked = asyncio.ensure_future(scorer.logprobs("policy", [[1, 2, 3]]))
        await asyncio.sleep(0.05)
        assert not asked.done()
    async with asyncio.timeout(30):
        assert len((await asked)[0]) == 3


async def test_off_the_loop_by_hand():
    """Values, errors, interrupts after the end, and a deadline that leaves the thread behind."""
    assert await off_loop(lambda: 7) == 7
    with pytest.raises(KeyError):
        await off_loop(lambda: {}["missing"])  # type: ignore[index]
    release = threading.Event()
    with pytest.raises(RunFailed, match=r"did not finish an update within 0\.1 s"):
        await off_loop(lambda: release.wait(60), deadline_s=0.1)
    release.set()
    ended: list[str] = []

    async def interrupted() -> None:
        ended.append(await off_loop(lambda: (time.sleep(0.1), "computed")[1]))
        ended.append("settled")
        await asyncio.sleep(0)
        ended.append("not reached")

    task = asyncio.ensure_future(interrupted())
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["computed", "settled"]
