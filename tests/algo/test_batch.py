"""Groups -> tensors, token by token, and how batches are cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.algo.batch import demo_batch, make_batch
from agentrl.algo.types import Batch, RowContext
from agentrl.errors import UserError
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript, floats_array
from agentrl.types import Task


def model(ids: list[int], *, version: int = 0, temperature: float = 1.0) -> Segment:
    logprobs = [-0.1 * i for i in ids]
    return Segment(Origin.MODEL, ids, logprobs, version=version, temperature=temperature)  # type: ignore[arg-type]


def seg(origin: Origin, ids: list[int]) -> Segment:
    return Segment(origin, ids)  # type: ignore[arg-type]


def trajectory(task: Task, sibling: int, *rows: Transcript, **options: object) -> Trajectory:
    fields = {"messages": (), "stop": StopReason.TERMINATED, "reward": 1.0} | options
    return Trajectory(f"0/{task.id}/{sibling}", task, sibling, rows, **fields)  # type: ignore[arg-type]


A, B = Task(id="a", question="?"), Task(id="b", question="?")
PROMPT = seg(Origin.PROMPT, [1, 2])
ROW = Transcript().append(
    PROMPT,
    model([3, 4], version=5, temperature=0.5),
    seg(Origin.OBSERVATION, [6, 7]),
    Segment(Origin.FORCED, [8], [-0.7]),  # type: ignore[arg-type]
    seg(Origin.SCAFFOLD, [9]),
    model([10], version=6, temperature=0.0),
)
SHORT = Transcript().append(PROMPT, model([5]))


def test_one_row_token_by_token() -> None:
    """prompt prompt MODEL MODEL obs obs FORCED scaffold MODEL: mask 0 0 1 1 0 0 1 0 1."""
    batch = make_batch([Group(A, (trajectory(A, 0, ROW),))], pad_id=99)
    assert batch.token_ids.tolist() == [[1, 2, 3, 4, 6, 7, 8, 9, 10]]
    assert batch.mask.int().tolist() == [[0, 0, 1, 1, 0, 0, 1, 0, 1]]
    assert batch.behaviour_logprobs[0].tolist() == pytest.approx(
        [0, 0, -0.3, -0.4, 0, 0, -0.7, 0, -1.0]
    )
    # Greedy tokens are scored at temperature 1, as the engine scores them.
    assert batch.temperatures.tolist() == [[1, 1, 0.5, 0.5, 1, 1, 1, 1, 1]]
    assert batch.versions.tolist() == [[-1, -1, 5, 5, -1, -1, -1, -1, 6]]
    assert batch.origins.tolist() == [[0, 0, 1, 1, 3, 3, 2, 4, 1]]
    assert (batch.n_tokens, batch.n_sequences) == (4, 1)


def test_order_failures_exclusions_and_second_rows() -> None:
    group_a = Group(
        A,
        (
            trajectory(A, 2, SHORT, excluded="overlong", reward=0.0),
            trajectory(A, 0, ROW, SHORT, reward=0.5, weight=2.0),
            trajectory(A, 1, stop=StopReason.ERROR, error="lost", reward=None),
        ),
    )
    batch = make_batch([Group(B, (trajectory(B, 0, SHORT),)), group_a], pad_id=0)
    assert batch.group_index.tolist() == [0, 1, 1, 1]
    assert batch.trajectory_index.tolist() == [0, 1, 1, 2]
    assert batch.rewards.tolist() == [1.0, 0.5, 0.5, 0.0]
    assert batch.weights.tolist() == [1.0, 2.0, 2.0, 1.0]
    assert batch.attention_mask.sum(1).tolist() == [3, 9, 3, 3]
    assert batch.mask.sum(1).tolist() == [1, 4, 1, 0]
    assert batch.lengths.tolist() == [1, 5, 5, 1]
    assert batch.trained.tolist() == [1, 5, 5, 0]
    assert (batch.n_tokens, batch.n_sequences, batch.n_masked_rows) == (6, 2, 1)


def test_arrival_order_changes_nothing() -> None:
    members = [trajectory(A, s, SHORT if s % 2 else ROW, reward=float(s)) for s in range(4)]
    plain = make_batch([Group(A, tuple(members))], pad_id=0)
    mixed = make_batch([Group(A, tuple(reversed(members)))], pad_id=0)
    assert torch.equal(plain.token_ids, mixed.token_ids)
    assert torch.equal(plain.rewards, mixed.rewards)


@pytest.mark.parametrize("mode", ["behaviour", "relabel"])
def test_train_context_replaces_the_prompt(mode: str) -> None:
    """Sampled under prompt [1, 2], trained under [20, 21, 22]; everything behind it moves by one."""
    row = replace(ROW, train_context=np.array([20, 21, 22]), ratio_mode=mode)
    rewards = floats_array(range(9))
    group = Group(A, (trajectory(A, 0, row),), token_rewards=(rewards,))
    batch = make_batch([group], pad_id=0)
    assert batch.token_ids.tolist() == [[20, 21, 22, 3, 4, 6, 7, 8, 9, 10]]
    assert batch.mask.int().tolist() == [[0, 0, 0, 1, 1, 0, 0, 1, 0, 1]]
    assert batch.behaviour_logprobs[0, 3].item() == pytest.approx(-0.3)
    assert batch.contexts.tolist() == [int(RowContext[mode.upper()])]
    assert batch.token_rewards is not None
    assert batch.token_rewards.tolist() == [[0, 0, 0, 2, 3, 4, 5, 6, 7, 8]]


def test_token_rewards_are_split_over_rows() -> None:
    rewards = floats_array(range(12))
    group = Group(A, (trajectory(A, 0, ROW, SHORT),), token_rewards=(rewards,))
    batch = make_batch([group], pad_id=0)
    assert batch.token_rewards is not None
    assert batch.token_rewards.tolist() == [list(range(9)), [9, 10, 11] + [0] * 6]
    with pytest.raises(ValueError, match="12 tokens"):
        make_batch([replace(group, token_rewards=(rewards[:5],))], pad_id=0)


def test_unscored_empty_and_promptless_are_refused() -> None:
    with pytest.raises(ValueError, match="no shaped reward"):
        make_batch([Group(A, (trajectory(A, 0, ROW, reward=None),))], pad_id=0)
    with pytest.raises(ValueError, match="at least one row"):
        make_batch([Group(A, ())], pad_id=0)
    bare = Transcript().append(model([1, 2]))
    with pytest.raises(ValueError, match="token 0"):
        make_batch([Group(A, (trajectory(A, 0, bare),))], pad_id=0)


def test_demo_batch_has_no_policy_tokens() -> None:
    row = Transcript().append(PROMPT, seg(Origin.DEMO, [3, 4]))
    batch = demo_batch([row], pad_id=0)
    assert batch.origins.tolist() == [[0, 0, 5, 5]]
    assert batch.n_tokens == 0
    assert not batch.mask.any()


def good() -> Batch:
    members = tuple(trajectory(A, s, ROW if s else SHORT) for s in range(2))
    return make_batch([Group(A, members)], pad_id=0)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mask", lambda b: torch.ones_like(b.mask), "padding token"),
        ("attention_mask", lambda b: b.attention_mask.flip(1), "on the right"),
        ("rewards", lambda b: b.rewards * torch.nan, "not finite"),
        ("behaviour_logprobs", lambda b: b.behaviour_logprobs - torch.inf, "not finite"),
        ("temperatures", lambda b: b.temperatures * 0, "temperature"),
        ("weights", lambda b: b.weights[:1], "expected"),
        ("versions", lambda b: b.versions.long(), "expected"),
        ("old_logprobs", lambda b: b.behaviour_logprobs / 0, "not finite"),
    ],
)
def test_broken_laws_raise(name: str, change: object, message: str) -> None:
    batch = good()
    with pytest.raises(ValueError, match=message):
        replace(batch, **{name: change(batch)})  # type: ignore[operator]


def many(lengths: list[int]) -> Batch:
    """One group per two trajectories."""
    rows = [Transcript().append(PROMPT, model(list(range(1, n + 1)))) for n in lengths]
    groups = []
    for start in range(0, len(rows), 2):
        task = Task(id=str(start), question="?")
        members = [trajectory(task, s, row) for s, row in enumerate(rows[start : start + 2])]
        groups.append(Group(task, tuple(members)))
    return make_batch(groups, pad_id=0)


@settings(deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.integers(1, 60))
def test_micro_batches_cover_every_token_once(lengths: list[int], budget: int) -> None:
    batch = many(lengths)
    cuts = batch.micro_batches(budget)
    assert sorted(r for cut in cuts for r in cut.rows.tolist()) == list(range(len(lengths)))
    for cut in cuts:
        assert cut.batch.token_ids.numel() <= budget or len(cut.rows) == 1
        assert cut.batch.n_tokens == batch.n_tokens
        assert torch.equal(cut.take(batch.mask), cut.batch.mask)
    assert sum(int(cut.batch.mask.sum()) for cut in cuts) == batch.n_tokens


def test_micro_batches_leave_out_what_is_not_needed() -> None:
    """Row 0 has no wanted token; row 1 is cut after its last one; longest first."""
    batch = many([5, 6, 2])
    wanted = torch.zeros_like(batch.mask)
    wanted[1, 3] = wanted[2, 2] = True
    cuts = batch.micro_batches(100, wanted)
    assert [cut.rows.tolist() for cut in cuts] == [[1, 2]]
    assert cuts[0].batch.token_ids.shape == (2, 4)


@pytest.mark.parametrize(
    ("n", "rows"),
    [
        (1, [[0, 1, 2, 3, 4, 5]]),
        (2, [[0, 1, 2, 3], [4, 5]]),
        (3, [[0, 1], [2, 3], [4, 5]]),
        (4, [[0, 1], [2, 3], [4], [5]]),
        (9, [[0], [1], [2], [3], [4], [5]]),
    ],
)
def test_minibatches_keep_groups_whole_where_they_can(n: int, rows: list[list[int]]) -> None:
    batch = many([1, 2, 3, 4, 5, 6])
    parts = batch.minibatches(n)
    assert [part.rows.tolist() for part in parts] == rows
    assert [part.batch.n_tokens for part in parts] == [sum(r + 1 for r in part) for part in rows]
    with pytest.raises(UserError, match="minibatches"):
        batch.minibatches(0)
