"""Streams and the uniform source: what they draw, and that a restored one goes on exactly."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import pytest

from agentrl.data.stream import Cursor, FileStream, GeneratedStream, TaskStream
from agentrl.data.uniform import Uniform
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


def of(*args: Any, **kwargs: Any) -> Uniform:
    return Uniform(stream=FileStream(*args, **kwargs))


def through_json(source: TaskSource) -> Any:
    return json.loads(json.dumps(source.state()))


def test_a_generated_stream_goes_on_where_it_was() -> None:
    source = Uniform(stream=GeneratedStream(Counting(), "train", 7))
    assert isinstance(source, TaskSource)
    assert drawn(source, 2) == ["train-7-0", "train-7-1"]
    state = through_json(source)
    assert state == {"position": 2, "stream": "train/7"}
    ahead = drawn(source, 3)
    source.observe([], CTX)
    fresh = Uniform(stream=GeneratedStream(Counting(), "train", 7))
    fresh.restore(state)
    assert drawn(fresh, 3) == ahead == ["train-7-2", "train-7-3", "train-7-4"]
    source.restore(state)
    assert drawn(source, 3) == ahead


def test_the_maths_stream_resumes_exactly() -> None:
    from agentrl_envs.retool_math import RetoolMath

    source = Uniform(stream=GeneratedStream(RetoolMath(style="terse"), "train", 0))
    assert source.next(300, CTX) == list(
        islice(RetoolMath(style="terse").tasks("train", seed=0), 300)
    )
    state = through_json(source)
    ahead = source.next(40, CTX)
    fresh = Uniform(stream=GeneratedStream(RetoolMath(style="terse"), "train", 0))
    fresh.restore(state)
    assert fresh.next(40, CTX) == ahead


def test_another_stream_or_an_ending_one_is_refused() -> None:
    source = Uniform(stream=GeneratedStream(Counting(), "train", 7))
    for digest in ("test/7", "train/8"):
        with pytest.raises(UserError, match="resume with the same data"):
            source.restore({"position": 2, "stream": digest})
    for state in ({}, {"position": "far"}, {"position": 1, "weights": {}}):
        with pytest.raises(UserError, match="cannot go on from"):
            source.restore({**state, "stream": "train/7", "epoch": 1})
    with pytest.raises(UserError, match="generated only 3 tasks of the split 'train'"):
        Uniform(stream=GeneratedStream(Short(), "train", 0)).next(4, CTX)


def test_a_shuffled_file_shows_every_task_once_an_epoch() -> None:
    assert isinstance(FileStream(TASKS, 0), TaskStream)
    source = of(TASKS, 0)
    ids = drawn(source, 7) + drawn(source, 8)
    epochs = [ids[i : i + 5] for i in range(0, 15, 5)]
    assert all(Counter(epoch) == Counter(t.id for t in TASKS) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert drawn(of(TASKS, 0), 15) == ids
    assert drawn(of(TASKS, 1), 15) != ids


def test_the_order_of_a_seed_never_changes() -> None:
    """Recorded once; published runs depend on it."""
    ids = "014322430143210"
    assert drawn(of(TASKS, 3), 15) == [f"t{i}" for i in ids]


def test_an_unshuffled_file_keeps_its_order() -> None:
    ids = [t.id for t in TASKS]
    assert drawn(of(TASKS, 0, shuffle=False), 7) == ids + ids[:2]


@pytest.mark.parametrize("n", [0, 3, 5, 12])
def test_a_restored_file_goes_on_exactly(n: int) -> None:
    source = of(TASKS, 3)
    drawn(source, n)
    state = through_json(source)
    fresh = of(TASKS, 3)
    fresh.restore(state)
    assert drawn(fresh, 9) == drawn(source, 9)


def test_a_checkpoint_of_other_tasks_is_refused() -> None:
    state = of(TASKS, 3).state()
    doubled = Uniform(stream=FileStream(TASKS, 3).holding(lambda _: 2))
    for other in (of(TASKS[:4], 3), of(TASKS, 4), of(TASKS, 3, shuffle=False), doubled):
        with pytest.raises(UserError, match="resume with the same data"):
            other.restore(state)


def test_no_task_or_a_double_id_is_refused() -> None:
    with pytest.raises(UserError, match="no task to draw"):
        FileStream([], 0)
    with pytest.raises(UserError, match="no task to draw"):
        FileStream(TASKS, 0).holding(lambda _: 0)
    with pytest.raises(UserError, match="share an id"):
        FileStream([*TASKS, TASKS[0]], 0)


def test_copies_come_within_the_epoch_and_are_mixed() -> None:
    held = FileStream(TASKS, 0).holding(lambda task: int(task.id[1]))
    assert held.epoch == 0 + 1 + 2 + 3 + 4
    for start in (0, 10):
        ids = [t.id for t in islice(held.starting_at(start), 10)]
        assert Counter(ids) == {f"t{i}": i for i in range(1, 5)}
        assert ids != sorted(ids)
    assert held.look() == tuple(TASKS)


def test_a_cursor_finds_the_one_wanted_task_of_every_shuffled_epoch() -> None:
    """It may come first in one epoch and last in the next: nearly two epochs of others between."""
    cursor = Cursor(FileStream(TASKS, 0))
    found = cursor.take(200, lambda t: t.id == "t3")
    assert [t.id for t in found] == ["t3"] * 200
    assert cursor.position > 199 * len(TASKS)


def test_a_cursor_skips_counts_and_gives_up() -> None:
    cursor = Cursor(FileStream(TASKS, 0, shuffle=False))
    even = [t.id for t in cursor.take(4, lambda t: int(t.id[1]) % 2 == 0)]
    assert even == ["t0", "t2", "t4", "t0"]
    assert cursor.position == 6
    cursor.to_next_epoch()
    assert cursor.position == 10
    cursor.to_next_epoch()
    assert cursor.position == 10
    with pytest.raises(UserError, match=r"none of 9 tasks in a row is wanted \(level=9\)"):
        cursor.take(1, lambda t: False, "level=9")
    assert [t.id for t in Cursor(FileStream(TASKS, 0, shuffle=False), 8).take(3)] == [
        "t3", "t4", "t0",
    ]  # fmt: skip
