"""Curricula: the papers' numbers, what is drawn when, and that a restored one goes on exactly."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentrl.config import Plugin
from agentrl.data.domains import Domains, harmonic, harmonic_share, weights
from agentrl.data.one_shot import OneShot, most_varied
from agentrl.data.pass_rate import Band, PassRate
from agentrl.data.rates import Bar, difficulty, read_verdicts, shares, traces
from agentrl.data.stages import Stage, Stages, hard, stage_at
from agentrl.data.stream import FileStream, GeneratedStream, TaskStream
from agentrl.data.uniform import Uniform
from agentrl.errors import UserError
from agentrl.plugins import build
from agentrl.points import Ctx, TaskSource
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.trajectory_json import to_line
from agentrl.transcript import Transcript
from agentrl.types import Task

N = 24
TASKS = [
    Task(f"t{i:02}", "x" * (10 * (i + 1)), "1", {"domain": "ab"[i % 2], "level": i % 3 + 1})
    for i in range(N)
]
STREAM = FileStream(TASKS, 5)
UNSHUFFLED = FileStream(TASKS, 5, shuffle=False)


def ctx(step: int) -> Ctx:
    return Ctx(step=step, total_steps=100, seed=0)


def trajectory(task: Task, sibling: int, reward: float | None, step: int = 0) -> Trajectory:
    """`reward` None: the world failed it."""
    if reward is None:
        return Trajectory(
            f"{step}/{task.id}/{sibling}", task, sibling, (), (), StopReason.ERROR, error="lost"
        )
    return Trajectory(
        f"{step}/{task.id}/{sibling}", task, sibling, (Transcript(),), (), StopReason.TERMINATED,
        rewards={"env": reward},
    )  # fmt: skip


def group(task: Task, *rewards: float | None, step: int = 0) -> Group:
    return Group(task, tuple(trajectory(task, i, r, step) for i, r in enumerate(rewards)), step)


def ids(tasks: Sequence[Task]) -> list[str]:
    return [task.id for task in tasks]


def stored_run(path: Path, accuracies: Mapping[str, Sequence[Sequence[float | None]]]) -> str:
    """A trajectories.jsonl: task id -> its groups, one a step."""
    by_id = {task.id: task for task in TASKS}
    lines = [
        to_line(trajectory(by_id[name], i, reward, step)) + "\n"
        for name, steps in accuracies.items()
        for step, rewards in enumerate(steps)
        for i, reward in enumerate(rewards)
    ]
    path.write_text("".join(lines))
    return str(path)


# RuleReasoner


def test_domain_weights_of_the_paper() -> None:
    """EMA .5: a .8 then .6 -> .7, b .2 then .4 -> .3; softmax((1 - r + .1) / .3)."""
    source = Domains(stream=STREAM, seed=0, every=1)
    a, b = TASKS[0], TASKS[1]
    for a_right, b_right in ((4, 1), (3, 2)):
        source.observe([group(a, *_of(a_right, 5)), group(b, *_of(b_right, 5))], ctx(0))
    state: Any = source.state()
    assert state["smoothed"] == pytest.approx({"a": 0.7, "b": 0.3})
    assert state["weights"] == pytest.approx({"a": 0.20861, "b": 0.79139}, abs=1e-5)


def _of(right: int, n: int) -> list[float]:
    return [1.0] * right + [0.0] * (n - right)


def test_eps_cancels_and_a_met_target_needs_no_more() -> None:
    rewards = {"a": 0.7, "b": 0.3}
    assert weights(rewards, 1.0, 0.3, eps=5) == pytest.approx(weights(rewards, 1.0, 0.3, eps=0))
    assert weights({"a": 0.9, "b": 0.6}, 0.5, 0.3) == pytest.approx({"a": 0.5, "b": 0.5})


def test_harmonic_smoothing() -> None:
    """Rewards 1 in four batches of one size: (1 + 1/2 + 1/3 + 1/4) / 4, the target's own factor."""
    assert harmonic_share(4) == pytest.approx(0.5208333)
    assert harmonic([{"a": (3.0, 3)}] * 4) == pytest.approx({"a": 0.5208333})
    # By hand: newest 2 items of mean .5, before 1 item of 1: (1.0 + 1.0 / 2) / 3.
    assert harmonic([{"a": (1.0, 1)}, {"a": (1.0, 2)}]) == pytest.approx({"a": 0.5})
    source = Domains(stream=STREAM, seed=0, every=1, smoothing="harmonic", window=2)
    for _ in range(3):
        source.observe([group(TASKS[0], 1.0), group(TASKS[1], 0.0)], ctx(0))
    # Target .75 at window 2; a is there (v 0), b is .75 short.
    expected = 1 / (1 + math.exp(0.75 / 0.3))
    assert source.state()["weights"] == pytest.approx({"a": expected, "b": 1 - expected})
    assert len(source.state()["batches"]) == 2  # type: ignore[arg-type]


def test_weights_change_every_eighth_step_from_that_steps_batch() -> None:
    source = Domains(stream=STREAM, seed=0)
    for step in range(8):
        assert source.state()["weights"] == {}
        right = 1.0 if step == 7 else 0.0
        source.observe([group(TASKS[0], right), group(TASKS[1], 0.0, None)], ctx(step))
    assert source.state()["smoothed"] == {"a": 1.0, "b": 0.0}


def test_draws_follow_the_weights_and_domains_have_their_own_epochs() -> None:
    source = Domains(stream=STREAM, seed=0, every=1)
    first = Counter(t.metadata["domain"] for t in source.next(2000, ctx(0)))
    assert first["a"] == pytest.approx(1000, abs=100)
    source.observe([group(TASKS[0], 1.0), group(TASKS[1], 0.0)], ctx(0))
    share = 1 / (1 + math.exp(1 / 0.3))
    drawn = source.next(2000, ctx(1))
    assert sum(t.metadata["domain"] == "a" for t in drawn) == pytest.approx(2000 * share, abs=60)
    b = [t.id for t in drawn if t.metadata["domain"] == "b"]
    counts = Counter(b).values()
    assert max(counts) - min(counts) <= 2


def test_a_domain_that_was_not_drawn_keeps_its_reward() -> None:
    source = Domains(stream=STREAM, seed=0, every=1)
    source.observe([group(TASKS[1], 0.5)], ctx(0))
    assert source.state()["weights"] == pytest.approx(weights({"a": 0.0, "b": 0.5}, 1.0, 0.3))
    source.observe([group(TASKS[0], 0.0)], ctx(1))
    assert source.state()["smoothed"] == {"a": 0.0, "b": 0.5}
    source.observe([group(TASKS[0], 1.0)], ctx(2))
    assert source.state()["smoothed"] == {"a": 0.5, "b": 0.5}


def test_bad_domains_are_told() -> None:
    with pytest.raises(UserError, match=r"source\.key"):
        Domains(stream=STREAM, seed=0, key="nothing")
    with pytest.raises(UserError, match="tau > 0"):
        Domains(stream=STREAM, seed=0, tau=0)
    source = Domains(stream=STREAM, seed=0, domains=("a", "z"))
    with pytest.raises(UserError, match="metadata domain=z"):
        source.next(100, ctx(0))


# Stages


def test_stages_by_length_level_and_step() -> None:
    """FastCuRL's short, all, long: questions of up to 70 characters are the first seven."""
    stages = (
        Stage(steps=2, max_chars=70), Stage(steps=1, values=(3,)), Stage(min_chars=200),
    )  # fmt: skip
    assert [stage_at(stages, step) for step in range(5)] == [0, 0, 1, 2, 2]
    source = Stages(stream=UNSHUFFLED, stages=stages)
    assert ids(source.next(4, ctx(0))) == ["t00", "t01", "t02", "t03"]
    assert ids(source.next(4, ctx(1))) == ["t04", "t05", "t06", "t00"]
    assert ids(source.next(3, ctx(2))) == ["t02", "t05", "t08"]
    assert ids(source.next(6, ctx(3))) == ["t19", "t20", "t21", "t22", "t23", "t19"]


def test_a_stage_starts_with_an_epoch_of_its_own() -> None:
    source = Stages(stream=UNSHUFFLED, stages=(Stage(steps=1), Stage()))
    assert ids(source.next(5, ctx(0)))[-1] == "t04"
    assert ids(source.next(2, ctx(1))) == ["t00", "t01"]
    assert source.state()["position"] == N + 2


def test_a_level_may_be_text_in_the_configuration() -> None:
    source = Stages(stream=UNSHUFFLED, stages=(Stage(values=("2",)),))
    assert {t.metadata["level"] for t in source.next(10, ctx(0))} == {2}


def test_stages_by_the_pass_rates_of_an_evaluation(tmp_path: Path) -> None:
    """AceReason's 24K stage keeps pass rate <= 6/16; unmeasured tasks only where wanted."""
    rates = stored_run(
        tmp_path / "trajectories.jsonl",
        {"t00": [_of(6, 16)], "t01": [_of(7, 16)], "t02": [[0.0, None]]},
    )
    strict = Stage(max_rate=6 / 16, unmeasured=False)
    source = Stages(stream=UNSHUFFLED, stages=(strict,), rates=str(tmp_path))
    assert ids(source.next(3, ctx(0))) == ["t00", "t02", "t00"]
    open_stage = Stage(max_rate=6 / 16, open=True)
    source = Stages(stream=UNSHUFFLED, stages=(open_stage,), rates=rates)
    assert ids(source.next(3, ctx(0))) == ["t02", "t03", "t04"]
    assert source.state()["seen"] == {}


def test_solved_tasks_are_dropped_and_come_back_never() -> None:
    source = Stages(
        stream=FileStream(TASKS[:3], 0, shuffle=False), stages=(Stage(drop_solved=True),)
    )
    for group_ in (group(TASKS[0], 1.0, 1.0), group(TASKS[1], 1.0, 0.0), group(TASKS[2], None)):
        source.next(1, ctx(0))
        source.observe([group_], ctx(0))
    assert ids(source.next(4, ctx(1))) == ["t01", "t02", "t01", "t02"]


def test_hard_prompts_at_the_end(tmp_path: Path) -> None:
    """ORZ: strictly fewer than 4 of 64."""
    path = stored_run(
        tmp_path / "t.jsonl", {"t03": [_of(3, 64)], "t04": [_of(4, 64)], "t05": [_of(0, 64)]}
    )
    source = hard(stream=UNSHUFFLED, rates=path)
    assert ids(source.next(3, ctx(0))) == ["t03", "t05", "t03"]
    live = hard(stream=FileStream(TASKS[:3], 0, shuffle=False), from_step=1)
    tasks = live.next(3, ctx(0))
    live.observe([group(tasks[0], *_of(4, 64)), group(tasks[1], *_of(3, 64))], ctx(0))
    assert ids(live.next(2, ctx(1))) == ["t01", "t01"]
    live.observe([group(tasks[1], 1.0)], ctx(1))
    assert ids(live.next(1, ctx(2))) == ["t01"]
    with pytest.raises(UserError, match="from_step"):
        hard(stream=STREAM)


def test_bad_stages_are_told() -> None:
    for stages in ((), (Stage(), Stage()), (Stage(steps=0), Stage())):
        with pytest.raises(UserError, match="only the last is endless"):
            Stages(stream=STREAM, stages=stages)
    with pytest.raises(UserError, match="stage 0"):
        Stages(stream=STREAM, stages=(Stage(min_chars=9999),)).next(1, ctx(0))
    node = Plugin.model_validate({"name": "stages", "stages": [{"step": 3}]})
    with pytest.raises(UserError, match=r"source\.stages\.0\.step"):
        build("source", node, stream=STREAM)


def test_stages_are_written_in_a_configuration() -> None:
    node = Plugin.model_validate(
        {"name": "stages", "stages": [{"steps": 1, "values": [1]}, {"min_chars": 240}]}
    )
    source = build("source", node, stream=UNSHUFFLED, seed=0, group_size=8)
    assert ids(source.next(2, ctx(0))) == ["t00", "t03"]
    assert ids(source.next(1, ctx(1))) == ["t23"]


# One shot


def test_the_most_varied_history_wins() -> None:
    """[0, 1, 0, 1] has variance .25, [1, 1, 1, 0] .1875."""
    history = {"b": [0.0, 1.0, 0.0, 1.0], "a": [1.0, 1.0, 1.0, 0.0], "c": [1.0]}
    assert most_varied(history, 1) == ["b"]
    assert most_varied(history, 2) == ["b", "a"]
    assert most_varied({"z": [0.0, 1.0], "y": [1.0, 0.0]}, 1) == ["y"]
    with pytest.raises(UserError, match="fewer than 3"):
        most_varied(history, 3)


def test_one_shot_from_the_history_of_a_run(tmp_path: Path) -> None:
    path = stored_run(
        tmp_path / "t.jsonl",
        {"t07": [[0.0], [1.0], [0.0], [1.0]], "t08": [[1.0], [1.0], [1.0], [0.0]]},
    )
    assert traces(read_verdicts(path, Bar())) == {"t07": [0, 1, 0, 1], "t08": [1, 1, 1, 0]}
    source = OneShot(stream=STREAM, history=path)
    assert ids(source.next(3, ctx(0))) == ["t07"] * 3
    both = OneShot(stream=STREAM, history=path, n_tasks=2)
    assert ids(both.next(3, ctx(0)) + both.next(2, ctx(1))) == ["t07", "t08", "t07", "t08", "t07"]


def test_one_shot_by_id_and_after_a_warm_up() -> None:
    assert ids(OneShot(stream=STREAM, task="t09").next(2, ctx(0))) == ["t09", "t09"]
    source = OneShot(stream=FileStream(TASKS[:3], 0, shuffle=False), warmup_steps=2)
    for step in range(2):
        tasks = source.next(3, ctx(step))
        assert ids(tasks) == ["t00", "t01", "t02"]
        rewards = ((1.0, 1.0), (float(step), float(step)), (0.0, float(step)))
        groups = [group(t, *r) for t, r in zip(tasks, rewards, strict=True)]
        source.observe(groups[::-1], ctx(step))
    assert ids(source.next(4, ctx(2))) == ["t01"] * 4


def test_bad_one_shots_are_told() -> None:
    with pytest.raises(UserError, match="one of"):
        OneShot(stream=STREAM)
    with pytest.raises(UserError, match="one of"):
        OneShot(stream=STREAM, task="t09", warmup_steps=4)
    with pytest.raises(UserError, match="not among the first 24"):
        OneShot(stream=STREAM, task="t99")
    with pytest.raises(UserError, match="warmup_steps >= 2"):
        OneShot(stream=STREAM, warmup_steps=1)


# Pass rates


@pytest.mark.parametrize(
    ("right", "bucket"),
    [(0, "failed"), (2, "hard"), (3, "medium"), (5, "medium"), (6, "easy"), (8, "solved")],
)
def test_difficulty_of_eight_rollouts(right: int, bucket: str) -> None:
    assert difficulty(right / 8) == bucket


def measured(path: Path) -> str:
    """t00 to t04 solved 0, 2, 4, 6 and 8 times of 8."""
    return stored_run(path, {f"t0{i}": [_of(2 * i, 8)] for i in range(5)})


def test_what_is_always_or_never_solved_is_dropped(tmp_path: Path) -> None:
    path = measured(tmp_path / "t.jsonl")
    source = PassRate(stream=UNSHUFFLED, rates=path)
    assert ids(source.next(4, ctx(0))) == ["t01", "t02", "t03", "t01"]
    assert ids(PassRate(stream=UNSHUFFLED, rates=path, only=("hard",)).next(2, ctx(0))) == [
        "t01", "t01",
    ]  # fmt: skip
    closed = PassRate(stream=UNSHUFFLED, rates=path, low=0.25, high=0.5, open=False)
    assert ids(closed.next(3, ctx(0))) == ["t01", "t02", "t01"]
    wide = PassRate(stream=UNSHUFFLED, rates=path, unmeasured=True)
    assert ids(wide.next(5, ctx(0))) == ["t01", "t02", "t03", "t05", "t06"]


def test_pass_rates_are_measured_on_the_way() -> None:
    source = PassRate(stream=FileStream(TASKS[:3], 0, shuffle=False))
    tasks = source.next(3, ctx(0))
    rewards = ((1.0, 1.0), (0.0, 0.0), (1.0, 0.0))
    source.observe([group(t, *r) for t, r in zip(tasks, rewards, strict=True)], ctx(0))
    assert ids(source.next(2, ctx(1))) == ["t02", "t02"]
    source.observe([group(tasks[2], 1.0, 1.0)], ctx(1))
    with pytest.raises(UserError, match="none of 5 tasks"):
        source.next(1, ctx(2))


def test_pass_rates_may_be_settled_at_a_step() -> None:
    """Afterwards a task that is always solved by now still comes."""
    source = PassRate(stream=FileStream(TASKS[:3], 0, shuffle=False), until=1)
    tasks = source.next(3, ctx(0))
    source.observe([group(tasks[0], 1.0, 1.0), group(tasks[2], 1.0, 0.0)], ctx(0))
    source.observe([group(t, 1.0, 1.0) for t in tasks], ctx(1))
    assert ids(source.next(4, ctx(2))) == ["t01", "t02", "t01", "t02"]


def test_bands_repeat_tasks_within_an_epoch(tmp_path: Path) -> None:
    """OREAL's x6, x4, x4, x2 by fifths: rates .25, .5 and .75 come 4, 4 and 2 times."""
    bands = (Band(0.2, 6), Band(0.4, 4), Band(0.6, 4), Band(0.8, 2))
    path = measured(tmp_path / "t.jsonl")
    source = PassRate(stream=STREAM, rates=path, bands=bands)
    assert Counter(ids(source.next(10, ctx(0)))) == {"t01": 4, "t02": 4, "t03": 2}
    assert Counter(ids(source.next(10, ctx(0)))) == {"t01": 4, "t02": 4, "t03": 2}
    for wrong in ({"rates": None}, {"bands": bands[::-1]}, {"bands": ()}):
        with pytest.raises(UserError, match="rising up_to"):
            PassRate(**{"stream": STREAM, "rates": path, "bands": bands, **wrong})


def test_files_that_are_no_trajectories_are_told(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"question": "?"}\n')
    with pytest.raises(UserError, match=r"t\.jsonl:1: not a trajectory"):
        PassRate(stream=STREAM, rates=str(path))
    path.write_text('{"schema_version": 1, "uid": "x"}\n')
    with pytest.raises(UserError, match=r"t\.jsonl:1: a broken trajectory"):
        PassRate(stream=STREAM, rates=str(path))
    stored_run(path, {"t00": [[None]]})
    with pytest.raises(UserError, match="no scored trajectory"):
        PassRate(stream=STREAM, rates=str(path))
    assert shares([]) == {}


# All of them


class Generator:
    """Endless tasks of two domains and three levels."""

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        i = 0
        while True:
            i += 1
            metadata = {"domain": "ab"[i % 2], "level": i % 3}
            yield Task(f"g{seed}-{i}", "q" * (i % 7 + 1), "1", metadata)


STAGES = (
    Stage(steps=3, values=(1, 2)), Stage(steps=3, max_rate=0.8), Stage(drop_solved=True),
)  # fmt: skip
SOURCES: Mapping[str, Callable[[TaskStream], TaskSource]] = {
    "uniform": lambda s: Uniform(stream=s),
    "domains": lambda s: Domains(stream=s, seed=1, every=2),
    "harmonic": lambda s: Domains(stream=s, seed=1, every=2, smoothing="harmonic"),
    "stages": lambda s: Stages(stream=s, stages=STAGES),
    "hard": lambda s: hard(stream=s, from_step=6, below=0.7),
    "one_shot": lambda s: OneShot(stream=s, warmup_steps=6),
    "pass_rate": lambda s: PassRate(stream=s),
}


def learnt(tasks: Sequence[Task], step: int) -> list[Group]:
    """Outcomes that depend on task and step alone; some groups lost members."""
    return [group(t, *[float(hash_of(t, step, i) % 3 > 0) for i in range(4)], None) for t in tasks]


def hash_of(task: Task, *parts: int) -> int:
    return sum(map(ord, task.id)) * 7 + sum(p * 13 for p in parts)


def played(source: TaskSource, steps: range, reverse: bool = False) -> list[list[str]]:
    drawn: list[list[str]] = []
    for step in steps:
        first, second = source.next(5, ctx(step)), source.next(2, ctx(step))
        drawn.append(ids(first + second))
        groups = learnt(first + second, step)
        if reverse:
            groups = [Group(g.task, g.trajectories[::-1], g.step) for g in reversed(groups)]
        source.observe(groups, ctx(step))
    return drawn


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("at", [0, 1, 5, 9])
def test_a_restored_source_goes_on_exactly_whatever_the_order_of_arrival(
    name: str, at: int
) -> None:
    make = lambda: SOURCES[name](FileStream(TASKS, 2))  # noqa: E731
    whole = make()
    expected = played(whole, range(12))
    first = make()
    assert isinstance(first, TaskSource)
    assert played(first, range(at), reverse=True) == expected[:at]
    fresh = make()
    fresh.restore(json.loads(json.dumps(first.state())))
    assert played(fresh, range(at, 12)) == expected[at:]
    assert fresh.state() == whole.state()


@pytest.mark.parametrize("name", ["one_shot", "hard", "pass_rate"])
def test_what_must_come_again_is_told_of_endless_streams(name: str) -> None:
    with pytest.raises(UserError, match=r"come again; give data\.path=.*data\.limit=N"):
        SOURCES[name](GeneratedStream(Generator(), "train", 3))


@pytest.mark.parametrize("name", ["uniform", "domains", "harmonic", "stages"])
def test_sources_draw_from_generated_streams(name: str) -> None:
    stream = GeneratedStream(Generator(), "train", 3)
    first, fresh = SOURCES[name](stream), SOURCES[name](stream)
    played(first, range(4))
    fresh.restore(json.loads(json.dumps(first.state())))
    assert played(first, range(4, 9)) == played(fresh, range(4, 9))


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_refuses_anothers_state(name: str) -> None:
    other = next(n for n in SOURCES if type(SOURCES[n](STREAM)) is not type(SOURCES[name](STREAM)))
    with pytest.raises(UserError, match="cannot go on from"):
        SOURCES[name](STREAM).restore(SOURCES[other](STREAM).state())
