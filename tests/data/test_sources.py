"""Task sources: what they draw, and that a restored one goes on exactly."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from agentrl.data.source import FileTasks, GeneratedTasks
from agentrl.errors import UserError
from agentrl.points import Ctx, TaskSource
from agentrl.types import Task

CTX = Ctx(step=0, total_steps=1, seed=0)
TASKS = [Task(f"t{i}", f"{i}?", str(i)) for i in range(5)]


class Counting:
    """Generates `split-seed-i`."""

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        return (Task(f"{split}-{seed}-{i}", "?", "!") for i in count())


class Short:
    """Ends after three."""

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        return iter(TASKS[:3])


def drawn(source: TaskSource, n: int) -> list[str]:
    return [task.id for task in source.next(n, CTX)]


def through_json(source: TaskSource) -> Any:
    return json.loads(json.dumps(source.state()))


def test_a_stream_goes_on_where_it_was() -> None:
    source = GeneratedTasks(Counting(), "train", 7)
    assert isinstance(source, TaskSource)
    assert drawn(source, 2) == ["train-7-0", "train-7-1"]
    state = through_json(source)
    assert state == {"drawn": 2, "split": "train", "seed": 7}
    ahead = drawn(source, 3)
    source.observe([], CTX)
    fresh = GeneratedTasks(Counting(), "train", 7)
    fresh.restore(state)
    assert drawn(fresh, 3) == ahead == ["train-7-2", "train-7-3", "train-7-4"]
    source.restore(state)
    assert drawn(source, 3) == ahead


def test_the_maths_stream_resumes_exactly() -> None:
    from agentrl_envs.retool_math import RetoolMath

    source = GeneratedTasks(RetoolMath(style="terse"), "train", 0)
    source.next(300, CTX)
    state = through_json(source)
    ahead = source.next(40, CTX)
    fresh = GeneratedTasks(RetoolMath(style="terse"), "train", 0)
    fresh.restore(state)
    assert fresh.next(40, CTX) == ahead


def test_another_stream_or_an_ending_one_is_refused() -> None:
    source = GeneratedTasks(Counting(), "train", 7)
    for state in (
        {"drawn": 2, "split": "test", "seed": 7},
        {"drawn": 2, "split": "train", "seed": 8},
    ):
        with pytest.raises(UserError, match="resume with the same seed and split"):
            source.restore(state)
    with pytest.raises(UserError, match="has no count"):
        source.restore({"split": "train", "seed": 7})
    with pytest.raises(UserError, match="generated only 3 tasks of the split 'train'"):
        GeneratedTasks(Short(), "train", 0).next(4, CTX)


def test_a_shuffled_file_shows_every_task_once_an_epoch() -> None:
    source = FileTasks(TASKS, 0)
    assert isinstance(source, TaskSource)
    ids = drawn(source, 7) + drawn(source, 8)
    epochs = [ids[i : i + 5] for i in range(0, 15, 5)]
    assert all(Counter(epoch) == Counter(t.id for t in TASKS) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert drawn(FileTasks(TASKS, 0), 15) == ids
    assert drawn(FileTasks(TASKS, 1), 15) != ids


def test_an_unshuffled_file_keeps_its_order() -> None:
    ids = [t.id for t in TASKS]
    assert drawn(FileTasks(TASKS, 0, shuffle=False), 7) == ids + ids[:2]


@pytest.mark.parametrize("n", [0, 3, 5, 12])
def test_a_restored_file_goes_on_exactly(n: int) -> None:
    source = FileTasks(TASKS, 3)
    drawn(source, n)
    state = through_json(source)
    fresh = FileTasks(TASKS, 3)
    fresh.restore(state)
    assert drawn(fresh, 9) == drawn(source, 9)


def test_a_checkpoint_of_other_tasks_is_refused() -> None:
    state = FileTasks(TASKS, 3).state()
    others = [FileTasks(TASKS[:4], 3), FileTasks(TASKS, 4), FileTasks(TASKS, 3, shuffle=False)]
    for other in others:
        with pytest.raises(UserError, match="resume with the same data"):
            other.restore(state)
    with pytest.raises(UserError, match="has no epoch"):
        FileTasks(TASKS, 3).restore({"digest": state["digest"]})


def test_no_task_or_a_double_id_is_refused() -> None:
    with pytest.raises(UserError, match="no task to draw"):
        FileTasks([], 0)
    with pytest.raises(UserError, match="share an id"):
        FileTasks([*TASKS, TASKS[0]], 0)
