"""Memory-R: distances by hand, and scored before inserted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx
from agentrl.rewards.base import summed
from agentrl.rewards.memory_r import (
    FAILURES,
    SUCCESSES,
    MemoryR,
    exploit,
    explore,
    hashed_words,
    normalised,
)
from agentrl.trajectory import Group, Trajectory
from agentrl.types import Task

Member = Callable[..., Trajectory]
Groups = Callable[..., Group]


def v(*values: float) -> np.ndarray:
    return np.array(values, np.float64)


def test_exploit_by_hand():
    """M_s = {(1,0), (0,1)}: (1,0) is .7071 from the mean, (.5,.5) is on it."""
    memory = np.array([v(1, 0), v(0, 1)])
    raw = [exploit(v(1, 0), memory), exploit(v(0.5, 0.5), memory)]
    assert raw == pytest.approx([-0.7071, 0], abs=1e-4)
    assert normalised([x for x in raw if x is not None], [-0.7071, 0]) == pytest.approx(
        [0, 1], abs=1e-4
    )
    assert exploit(v(1, 0), np.zeros((0, 0))) is None


def test_explore_by_hand():
    """M_f = {(1,0)}: (0,1) is new, (1,0) is known, (.6,.8) is .4 new; an empty memory knows nothing."""
    memory = np.array([v(1, 0)])
    raw = [explore(a, memory) for a in (v(0, 1), v(1, 0), v(0.6, 0.8))]
    assert raw == pytest.approx([1, 0, 0.4])
    assert explore(v(1, 0), np.zeros((0, 0))) == 1
    assert normalised([3.0, 3.0], [3.0]) == [0, 0]


def step(shaper: MemoryR, members: Group, history: HistoryStore, number: int = 0) -> list[float]:
    shaped = shaper(members, summed(members), history, Ctx(number, 100, 0))
    history.commit(shaped.writes)
    return shaped.rewards_G.tolist()


def test_a_response_is_scored_before_it_is_remembered(member: Member, group: Groups):
    """Insert-before-score gives every wrong response novelty 0, its cosine with itself being 1.

    Seen first: one old failure and one new one; the old one is known, the new one is not, and only
    afterwards are both remembered.
    """
    shaper = MemoryR(exploit=0.0, warm_steps=0)
    history = HistoryStore()
    old = member(0, 0.0, turns=("alpha beta",))
    step(shaper, group(old), history)
    assert len(history.recent(FAILURES, "t")) == 1
    pair = group(old, member(1, 0.0, turns=("gamma delta epsilon",)))
    assert step(shaper, pair, history, 1) == pytest.approx([0, 1], abs=1e-6)
    assert len(history.recent(FAILURES, "t")) == 3
    again = step(shaper, pair, history, 2)
    assert again == pytest.approx([0, 0], abs=1e-6)


def test_right_answers_are_drawn_to_earlier_right_ones(member: Member, group: Groups):
    shaper = MemoryR(explore=0.0)
    history = HistoryStore()
    first = group(member(0, 1.0, turns=("add the two numbers",)))
    assert step(shaper, first, history) == [1.0]
    pair = group(
        member(0, 1.0, turns=("add the two numbers",)), member(1, 0.0, turns=("guess wildly",))
    )
    assert step(shaper, pair, history, 1) == pytest.approx([2.0, 0.0])
    assert len(history.recent(SUCCESSES, "t")) == 2
    assert len(history.recent(FAILURES, "t")) == 1


def test_exploring_waits_for_the_warm_up(member: Member, group: Groups):
    shaper = MemoryR(exploit=0.0, warm_steps=5)
    history = HistoryStore()
    old = member(0, 0.0, turns=("alpha beta",))
    step(shaper, group(old), history, 0)
    pair = group(old, member(1, 0.0, turns=("gamma delta",)))
    assert step(shaper, pair, history, 4) == [0, 0]
    fresh = group(old, member(1, 0.0, turns=("epsilon zeta eta",)))
    assert step(shaper, fresh, history, 5) == pytest.approx([0, 1], abs=1e-6)


def test_a_new_question_borrows_from_the_nearest(member: Member, group: Groups):
    """Its own memory is empty; the memory of the question with the same words is not."""
    shaper = MemoryR(explore=0.0)
    history = HistoryStore()
    near, far = Task("near", "add two and three"), Task("far", "name the capital city")
    step(shaper, group(member(0, 1.0, turns=("five",), task=near)), history)
    step(shaper, group(member(0, 1.0, turns=("Paris",), task=far)), history)
    new = Task("new", "add two and four")
    pair = group(
        member(0, 0.0, turns=("five",), task=new), member(1, 0.0, turns=("Paris",), task=new)
    )
    assert step(shaper, pair, history, 1) == pytest.approx([1, 0], abs=1e-6)


def test_memory_is_bounded(member: Member, group: Groups):
    history = HistoryStore()
    shaper = MemoryR(capacity=2)
    for number in range(5):
        step(shaper, group(member(0, 1.0, turns=(f"word{number}",))), history, number)
    kept = history.recent(SUCCESSES, "t")
    assert [list(x) for x in kept] == [hashed_words("word3"), hashed_words("word4")]


def test_words_are_hashed_to_unit_vectors_that_agree_with_overlap():
    one, near, far = (np.array(hashed_words(t)) for t in ("a b c d", "a b c e", "x y z w"))
    assert np.linalg.norm(one) == pytest.approx(1)
    assert one @ near > 0.4 > abs(one @ far)
    assert not np.array(hashed_words("")).any()


def test_another_embedding_and_bad_settings(member: Member, group: Groups):
    shaper = MemoryR(embed="agentrl.rewards.memory_r:hashed_words")
    assert step(shaper, group(member(0, 1.0)), HistoryStore()) == [1.0]
    with pytest.raises(UserError):
        MemoryR(capacity=0)
