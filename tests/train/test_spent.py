"""What a step's rollouts cost, from trees made by hand; and the collapse that OTC may end in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from agentrl.train.alarms import Alarms, calls_collapsed, watched
from agentrl.train.spent import spent
from agentrl.trajectory import Group, Trajectory
from agentrl.transcript import Origin, Segment, Transcript


def row(*parts: tuple[str, Sequence[int]]) -> Transcript:
    """p: prompt, m: sampled, o: observed."""
    made = Transcript()
    for kind, ids in parts:
        origin = {"p": Origin.PROMPT, "m": Origin.MODEL, "o": Origin.OBSERVATION}[kind]
        sampled = origin is Origin.MODEL
        made = made.append(
            Segment(origin, ids, [-1.0] * len(ids) if sampled else None, 0 if sampled else None)
        )
    return made


@pytest.fixture
def member(hand: Any) -> Any:
    def make(sibling: int, *rows: Transcript, of: Any = None, **fields: Any) -> Trajectory:
        made = hand.trajectory(of or hand.task("t"), sibling, fields.pop("env", 1.0), **fields)
        return replace(made, rows=rows) if rows else made

    return make


def test_a_shared_prefix_is_generated_once(hand: Any, member: Any) -> None:
    """Rows p2 m3 o2 m4; the branch shares p2 m3 o2 and one more, and writes 5 of its own.

    A branch of the branch shares 9 = p2 m3 o2 m2 and writes 1. The plain sibling wrote 6.
    7 + (3 + 5 - 3) + (3 + 3 - 5) + 6; the first branch may only share up to its fork, though its
    next token happens to be equal too.
    """
    root = member(0, row(("p", [1, 1]), ("m", [2, 3, 4]), ("o", [5, 5]), ("m", [6, 7, 8, 9])),
                  calls=[None], n_executed=1, uid="r")  # fmt: skip
    one = member(1, row(("p", [1, 1]), ("m", [2, 3, 4]), ("o", [5, 5]), ("m", [6, 7, 0, 0, 0])),
                 calls=[None, None], n_executed=1, uid="b", parent="r", fork_tokens=7)  # fmt: skip
    two = member(2, row(("p", [1, 1]), ("m", [2, 3, 4]), ("o", [5, 5]), ("m", [6, 7, 3])),
                 calls=[None], n_executed=0, uid="c", parent="b", fork_tokens=9)  # fmt: skip
    plain = member(3, row(("p", [1, 1]), ("m", [2, 3, 4, 5, 6, 7])), uid="d")
    found = spent([Group(hand.task("t"), (root, one, two, plain))])
    assert found["n_generated"] == 7 + 5 + 1 + 6
    assert (found["branches"], found["n_executed"]) == (2.0, 2.0)
    assert found["calls_attempted"] == found["calls_successful"] == 1.0


def test_rows_left_before_the_branching_are_shared_whole(hand: Any, member: Any) -> None:
    """Two rows m3 | m4; the branch left the second after p1 m1 and wrote 2: of 3 + 3 it owns 2."""
    first = row(("p", [1]), ("m", [2, 3, 4]))
    root = member(0, first, row(("p", [9]), ("m", [5, 6, 7, 8])), uid="r")
    branch = member(1, first, row(("p", [9]), ("m", [5, 0, 0])), uid="b", parent="r", fork_tokens=2)
    assert spent([Group(hand.task("t"), (root, branch))])["n_generated"] == 7 + 2


def test_a_parent_that_is_gone_or_was_played_afresh_shares_nothing(hand: Any, member: Any) -> None:
    orphan = member(1, row(("p", [1]), ("m", [2, 3])), uid="b", parent="gone", fork_tokens=2)
    assert spent([Group(hand.task("t"), (orphan,))])["n_generated"] == 2
    other = member(0, row(("p", [1]), ("m", [7, 7])), uid="gone")
    found = spent([Group(hand.task("t"), (other, orphan))])
    assert (found["n_generated"], found["branches"]) == (4.0, 0.0)


def test_attempted_executed_and_successful(hand: Any, member: Any) -> None:
    """parse and unknown_tool never ran; execution and timeout ran and failed."""
    calls = [None, "parse", "unknown_tool", "execution", "timeout"]
    t = member(0, calls=calls, n_executed=3)
    found = spent([Group(t.task, (t,))])
    assert (found["calls_attempted"], t.n_calls, found["calls_successful"]) == (5, 3, 1)


def test_hard_tasks_are_those_solved_at_most_half(hand: Any) -> None:
    a, b = hand.task("a"), hand.task("b")
    hard = Group(a, tuple(hand.trajectory(a, i, float(i), calls=[None] * (i + 1)) for i in (0, 1)))
    easy = Group(b, (hand.trajectory(b, 0, 1.0, calls=[None] * 9),))
    assert spent([hard, easy])["calls_hard"] == 1.5
    assert "calls_hard" not in spent([easy])
    assert spent([]) == {}


Steps = list[Mapping[str, float]]


def course(calls: Sequence[float], accuracy: Sequence[float]) -> Steps:
    return [{"calls_hard": c, "accuracy": a} for c, a in zip(calls, accuracy, strict=True)]


def test_the_collapse_is_named_once_calls_and_answers_are_gone() -> None:
    """5 steps at 1 call and 0.6, then 0 calls at 0.5. The windows' means are 1 .8 .6 .4 .2 0 calls and
    .6 .58 .56 .54 .52 .5: after 8 steps .4 < .5 and .54 < .6 - .05."""
    steps = course([1.0] * 5 + [0.0] * 5, [0.6] * 5 + [0.5] * 5)
    assert [calls_collapsed(steps[:n]) for n in range(11)] == [False] * 8 + [True] * 3
    alarms = Alarms(watched(30))
    warnings = [alarms.check(steps[n], steps[:n]) for n in range(10)]
    assert [bool(w) for w in warnings] == [False] * 7 + [True, False, False], "said once"
    assert warnings[7][0].startswith("warning, tool collapse: ")
    assert "keep=0.05" in warnings[7][0]


@pytest.mark.parametrize(
    ("calls", "accuracy"),
    [
        ([1.0] * 5 + [0.0] * 5, [0.6] * 10),  # the answers are as good: that is the aim
        ([1.0] * 5 + [0.0] * 5, [0.6] * 5 + [0.56] * 5),  # within 0.05
        ([1.0] * 5 + [0.51] * 5, [0.6] * 5 + [0.2] * 5),  # still called
        ([0.19] * 5 + [0.0] * 5, [0.6] * 5 + [0.2] * 5),  # never really called
        ([0.0] * 5 + [1.0] * 5, [0.2] * 5 + [0.6] * 5),  # learning to call
        ([1.0] * 5 + [0.0] * 2, [0.6] * 5 + [0.2] * 2),  # too soon to say
    ],
)
def test_it_is_quiet_otherwise(calls: list[float], accuracy: list[float]) -> None:
    steps = course(calls, accuracy)
    assert not any(calls_collapsed(steps[:n]) for n in range(len(steps) + 1))


def test_steps_without_hard_tasks_do_not_count() -> None:
    steps = course([1.0] * 5 + [0.0] * 5, [0.6] * 5 + [0.5] * 5)
    gaps: Steps = [step for s in steps for step in (s, {"accuracy": s["accuracy"]})]
    assert calls_collapsed(gaps)
    assert not calls_collapsed([{"accuracy": 0.5}] * 20)
