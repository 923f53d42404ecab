"""UR2, Med-R3, ReSeek, ReTool's turns, DemyAgent's calls, and counts of tool use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import pytest

from agentrl.episode import EpisodeRunner
from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Services
from agentrl.rewards.base import summed
from agentrl.rewards.med_r3 import MedR3, balance, graph_score, jaccard, root_paths
from agentrl.rewards.reseek import ReSeek, discounted, judgements
from agentrl.rewards.retool_turns import DemyTools, RetoolTurns, turn_score
from agentrl.rewards.tool_use import ToolUse
from agentrl.rewards.ur2 import Ur2, Ur2Rules
from agentrl.trajectory import CallRecord, Group, Trajectory
from agentrl.types import Task

Member = Callable[..., Trajectory]
Groups = Callable[..., Group]
Calls = Callable[..., CallRecord]
SERVICES = Services(episodes=cast(EpisodeRunner, None))


def shaped_by(shaper: object, group: Group, ctx: Ctx) -> list[float]:
    return shaper(group, summed(group), HistoryStore(), ctx).rewards_G.tolist()  # type: ignore[operator]


def counted(member: Member, env: float, v: int, q: int, f: int, task: Task) -> Trajectory:
    counts = {"ur2/violations": v, "ur2/queries": q, "ur2/fallbacks": f}
    return member(0, env, rewards={k: float(x) for k, x in counts.items()}, task=task)


@pytest.mark.parametrize(
    ("retrieval", "epoch", "v", "q", "f", "expected"),
    [
        (True, 3, 0, 1, 0, 4.0),
        (True, 3, 0, 2, 1, 4.5),
        (True, 3, 0, 0, 0, -1.0),
        (True, 3, 2, 1, 0, 1.0),
        (True, 20, 0, 2, 0, 1.0),
        (True, 20, 0, 0, 0, 1.0),
        (False, 3, 0, 0, 0, 1.0),
        (False, 3, 0, 1, 0, 0.0),
        (False, 20, 2, 0, 0, 0.0),
    ],
)
def test_ur2_stage_one(
    member: Member,
    group: Groups,
    retrieval: bool,
    epoch: int,
    v: int,
    q: int,
    f: int,
    expected: float,
):
    """The outcome plays no part: right answers get the same."""
    task = Task("t", "?", "42", {"retrieval": retrieval})
    ctx = Ctx(step=10 * epoch + 9, total_steps=999, seed=0)
    for env in (0.0, 1.0):
        one = group(counted(member, env, v, q, f, task))
        assert shaped_by(Ur2(steps_per_epoch=10), one, ctx) == [expected]


def test_ur2_stage_two(member: Member, group: Groups, ctx: Ctx):
    """Right, formatted, one fallback: 2 + 1 - .5; wrong and malformed: 0."""
    task = Task("t", "?", "42")
    assert shaped_by(Ur2(phase=2), group(counted(member, 1.0, 0, 1, 1, task)), ctx) == [2.5]
    assert shaped_by(Ur2(phase=2), group(counted(member, 0.0, 3, 1, 0, task)), ctx) == [0]


async def test_ur2_rules_count_violations(member: Member):
    async def count(text: str, *, observed: Sequence[str] = (), kind: str = "rag") -> list[float]:
        task = Task("t", "?", "42", {"kind": kind})
        scores = await Ur2Rules()(member(turns=(text,), observations=observed, task=task), SERVICES)
        return list(scores.values())

    query = "<|begin_of_query|>{}<|end_of_query|>"
    assert await count("<answer>42</answer>") == [0, 0, 0]
    assert await count("42") == [1, 0, 0]
    assert await count(query.format("a b") + "<answer>42</answer>") == [0, 1, 0]
    assert await count(query.format("w " * 21) + "<answer>42</answer>") == [1, 1, 0]
    assert await count(query.format("a") * 5 + "<answer>42</answer>") == [1, 5, 0]
    assert await count("<|begin_of_query|>a<answer>42</answer>") == [1, 1, 0]
    assert await count("答 <|im_end|><answer>42</answer>") == [2, 0, 0]
    assert await count("<answer>B and C</answer>", kind="mc") == [1, 0, 0]
    assert await count(f"<answer>{'w ' * 11}</answer>") == [1, 0, 0]
    refused = "This query requires design, computation, or complex reasoning: none."
    assert await count("<answer>1</answer>", observed=[refused]) == [0, 0, 1]


G1 = [("A", "r", "B"), ("B", "s", "C")]
G2 = [("A", "r", "B")]


def test_med_r3_graphs():
    """Paths {ArB, ArBsC} against {ArB}: .5; entities 2/3; with cosine .9 the score is .6889."""
    assert root_paths(G1) == {("A", "r", "B"), ("A", "r", "B", "s", "C")}
    assert jaccard(root_paths(G1), root_paths(G2)) == 0.5
    assert graph_score(G1, G2, 0.9) == pytest.approx(0.6889, abs=1e-4)
    assert root_paths([("A", "r", "B"), ("B", "r", "A")]) == {("A", "r", "B")}
    assert jaccard([], []) == 1.0


def test_med_r3_balance():
    """T/A = 1 -> .7311, a penalty of .0269; 2 or more costs nothing."""
    assert balance(10, 10) == pytest.approx(0.7311, abs=1e-4)
    assert 0.1 * (1 - balance(10, 10)) == pytest.approx(0.0269, abs=1e-4)
    assert balance(30, 10) == balance(5, 0) == 1.0


@pytest.mark.parametrize(
    ("grade", "form", "kg", "expected"),
    [
        (2, 1.0, 0.6889, 1.5511),
        (0, 1.0, 0.6889, 0.6511),
        (1, 0.5, 0.0, 0.35),
        (2, 0.0, 0.6889, 0.1),
        (2, -1.0, 0.6889, -0.1),
    ],
)
def test_med_r3_reward(
    member: Member, group: Groups, ctx: Ctx, grade: int, form: float, kg: float, expected: float
):
    """Thinking twice the answer's length, one language; the gates give their value and no more."""
    scores = {"judge/answer": float(grade), "med_r3/format": form, "med_r3/kg": kg}
    one = group(member(0, 1.0, rewards=scores, turns=("<think>aaaa</think>bb",)))
    assert shaped_by(MedR3(), one, ctx) == pytest.approx([expected], abs=1e-4)


def test_med_r3_language_and_balance_cost_a_tenth_each(member: Member, group: Groups, ctx: Ctx):
    scores = {"judge/answer": 2.0, "med_r3/format": 1.0, "med_r3/lang_answer": 0.0}
    one = group(member(0, 1.0, rewards=scores, turns=("<think>bb</think>bb",)))
    assert shaped_by(MedR3(), one, ctx) == pytest.approx([1 - 0.1 - 0.0269], abs=1e-4)
    bad = scores | {"judge/answer": 7.0}
    with pytest.raises(UserError, match="grades"):
        shaped_by(MedR3(), group(member(0, 1.0, rewards=bad)), ctx)


def judged(member: Member, said: Sequence[str], ideal: Sequence[bool], env: float) -> Trajectory:
    """Each observation holds the gold answer 42 where the ideal is Yes."""
    turns = ["<search>a</search>", *(f"<judge>{s}</judge>" for s in said)]
    observations = ["it is 42" if yes else "nothing" for yes in ideal]
    return member(0, env, turns=turns, observations=observations)


def test_reseek_by_hand(member: Member, group: Groups, ctx: Ctx):
    """(Yes, Yes) (Yes, No) (No, Yes), then right: .3 - .6 - .3 + 1 = .4."""
    one = group(judged(member, ["Yes", "Yes", "No"], [True, False, True], 1.0))
    assert shaped_by(ReSeek(), one, ctx) == pytest.approx([0.4])


def test_reseek_discounts_judgements_and_outcome(member: Member, group: Groups, ctx: Ctx):
    """gamma .9 on (Yes, Yes) (No, No) and a right third step: .3 + .27 + .81 = 1.38."""
    assert discounted([0.3, 0.3, 1.0], 0.9) == pytest.approx(1.38)
    one = group(judged(member, ["Yes", "No"], [True, False], 1.0))
    assert shaped_by(ReSeek(gamma=0.9), one, ctx) == pytest.approx([1.38])


def test_reseek_takes_a_recorded_ideal_over_the_text(member: Member):
    one = judged(member, ["Yes"], [True], 1.0)
    assert [j.ideal for j in judgements(one)] == [True]
    assert [j.ideal for j in judgements(one.scored(**{"reseek/ideal/0": 0.0}))] == [False]


def test_reseek_per_token_puts_each_judgement_at_its_turns_end(
    member: Member, group: Groups, ctx: Ctx
):
    """Row: prompt, turn, obs, turn, obs, turn; judgements belong to indices 3 and 5."""
    one = group(judged(member, ["Yes", "Yes"], [True, False], 1.0))
    shaped = ReSeek(per_token=True)(one, summed(one), HistoryStore(), ctx)
    assert shaped.rewards_G.tolist() == [1.0]
    assert shaped.token_rewards_GT is not None
    assert shaped.token_rewards_GT[0].tolist() == pytest.approx([0, 0, 0, 0.3, 0, -0.6])


@pytest.mark.parametrize(
    ("num_turns", "ok", "expected"),
    [(2, False, -1.0), (6, False, -0.8), (10, False, -0.6), (14, False, -0.6), (6, True, 1.0)],
)
def test_retool_turn_scores(num_turns: int, ok: bool, expected: float):
    assert turn_score(num_turns, ok=ok) == pytest.approx(expected)


def test_retool_turns_count_both_sides(member: Member, group: Groups, ctx: Ctx):
    """Three generations are num_turns 6 of the recipe; without the term it is +-1."""
    two = group(member(0, 0.0, turns=("a", "b", "c")), member(1, 1.0, turns=("a", "b", "c")))
    assert shaped_by(RetoolTurns(), two, ctx) == pytest.approx([-0.8, 1.0])
    assert shaped_by(RetoolTurns(per_turn=0), two, ctx) == [-1, 1]


def test_demy_tools_pays_for_executed_calls(member: Member, group: Groups, call: Calls, ctx: Ctx):
    """Two executed calls, one to a tool that does not exist: +.2; wrong is capped at -.6."""
    calls = [call(), call(), call(error="unknown_tool")]
    three = group(
        member(0, 1.0, calls=calls), member(1, 0.0, calls=calls), member(2, 0.0, calls=[call()] * 9)
    )
    assert shaped_by(DemyTools(), three, ctx) == pytest.approx([1.2, -0.8, -0.6])


async def test_tool_use_keeps_three_counts(member: Member, call: Calls):
    """Unreadable and unknown calls were attempted only; a failed one was executed too."""
    errors = [None, None, "execution", "parse", "unknown_tool"]
    scores = await ToolUse()(member(calls=[call(error=e) for e in errors]), SERVICES)
    assert scores == {
        "tools/attempted": 5,
        "tools/executed": 3,
        "tools/successful": 2,
        "tools/efficiency": pytest.approx(2 / 3),
    }


async def test_efficiency_without_a_call_does_not_exist(member: Member):
    assert "tools/efficiency" not in await ToolUse()(member(), SERVICES)


async def test_turn_reward(member: Member, call: Calls):
    """VerlTool: 2 of 3 right is .3 x 2/3 + .05 x 2 = .3; no call, no reward."""
    reward = ToolUse(success_weight=0.3, count_weight=0.05)
    calls = [call(), call(), call(error="timeout")]
    assert (await reward(member(calls=calls), SERVICES))["tool_use"] == pytest.approx(0.3)
    assert (await reward(member(), SERVICES))["tool_use"] == 0.0


async def test_measurements_are_no_reward(member: Member, group: Groups, call: Calls):
    trajectory = member(0, 1.0, calls=[call()] * 3)
    scored = trajectory.scored(**await ToolUse()(trajectory, SERVICES))
    assert summed(group(scored)).rewards_G.tolist() == [1.0]
