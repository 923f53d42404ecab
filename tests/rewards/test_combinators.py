"""Reward algebra, built from configuration as a recipe would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentrl.compose import compose, dump
from agentrl.config import Plugin
from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.plugins import build
from agentrl.points import Ctx, RewardShaper, Shaped
from agentrl.rewards.base import chain, summed
from agentrl.rewards.combine import Add, Gate, Mul
from agentrl.rewards.hapo import Hapo
from agentrl.rewards.kimi_length import KimiLength
from agentrl.rewards.otc import OTC
from agentrl.rewards.reseek import ReSeek
from agentrl.trajectory import CallRecord, Group, StopReason, Trajectory

Member = Callable[..., Trajectory]
Groups = Callable[..., Group]
Calls = Callable[..., CallRecord]
OTC_NODE = {"name": "otc", "form": "ppo"}
KIMI_NODE = {"name": "kimi_length"}


def shaper(name: str, **options: Any) -> RewardShaper:
    return build("shaper", Plugin.model_validate({"name": name, **options}))


def shaped_by(shaper: RewardShaper, group: Group, ctx: Ctx) -> list[float]:
    return shaper(group, summed(group), HistoryStore(), ctx).rewards_G.tolist()


@pytest.fixture
def four(member: Member, group: Groups, call: Calls) -> Group:
    """Right with 0, 1 and 2 calls and lengths 10 20 30; wrong with 1 call and length 20."""
    rows = [(1.0, 0, 10), (1.0, 1, 20), (1.0, 2, 30), (0.0, 1, 20)]
    return group(*(member(i, r, n, calls=[call()] * m) for i, (r, m, n) in enumerate(rows)))


def test_mul_of_otc_is_otc(four: Group, ctx: Ctx):
    """OTC turns a reward of 1 into its coefficient, so the product is OTC itself."""
    direct = shaped_by(OTC(form="ppo"), four, ctx)
    assert shaped_by(shaper("mul", shapers=[OTC_NODE]), four, ctx) == pytest.approx(direct)
    assert direct == pytest.approx([1, 0.5, 0.3090, 0], abs=1e-4)


def test_mul_of_components(member: Member, group: Groups, ctx: Ctx):
    """acc 1 x efficiency .5; acc 0 earns nothing for being efficient."""
    node = {"name": "components", "weights": {"tools/efficiency": 1.0}}
    two = group(
        member(0, 1.0, rewards={"tools/efficiency": 0.5}),
        member(1, 0.0, rewards={"tools/efficiency": 1.0}),
    )
    assert shaped_by(shaper("mul", shapers=[node]), two, ctx) == [0.5, 0]


def test_add_weighs_changes_to_the_same_reward(four: Group, ctx: Ctx):
    """Kimi +.5 0 -.5 0 and OTC 0 -.5 -.691 0, at weights .1 and 1: order plays no part."""
    nodes, weights = [KIMI_NODE, OTC_NODE], [0.1, 1.0]
    got = shaped_by(shaper("add", shapers=nodes, weights=weights), four, ctx)
    assert got == pytest.approx([1.05, 0.5, 0.2590, 0], abs=1e-4)
    swapped = shaper("add", shapers=nodes[::-1], weights=weights[::-1])
    assert shaped_by(swapped, four, ctx) == pytest.approx(got)


def test_add_weighs_token_rewards(member: Member, group: Groups, ctx: Ctx):
    turns, seen = ("<search>a</search>", "<judge>Yes</judge>"), ("it is 42",)
    one = group(member(0, 1.0, turns=turns, observations=seen))
    both = Add((ReSeek(per_token=True), ReSeek(per_token=True)), (1.0, 0.5))
    shaped = both(one, summed(one), HistoryStore(), ctx)
    assert shaped.token_rewards_GT is not None
    assert shaped.token_rewards_GT[0].tolist() == pytest.approx([0, 0, 0, 0.45])
    with pytest.raises(UserError, match="mul multiplies scalars"):
        Mul((ReSeek(per_token=True),))(one, summed(one), HistoryStore(), ctx)


def test_gate_gives_its_value_and_nothing_else(member: Member, group: Groups, ctx: Ctx):
    """format .1 is below the bar: -1 instead of reward and length term; its length sets no minimum."""
    rows = [(1.0, 1.0, 10), (1.0, 0.0, 5), (0.0, 1.0, 30)]
    three = group(*(member(i, r, n, rewards={"format": f}) for i, (r, f, n) in enumerate(rows)))
    node = {"name": "hapo"}
    gate = shaper("gate", component="format", fail=-1.0, shapers=[node])
    shaped = gate(three, summed(three), HistoryStore(), ctx)
    assert shaped.rewards_G.tolist() == [2.0, -1.0, 1.0]
    assert [w.value for w in shaped.writes] == [10]


def test_gate_takes_token_rewards_away(member: Member, group: Groups, ctx: Ctx):
    turns, seen = ("<search>a</search>", "<judge>Yes</judge>"), ("it is 42",)
    two = group(
        member(0, 1.0, turns=turns, observations=seen),
        member(1, 0.0, turns=turns, observations=seen),
    )
    gate = Gate("env", (ReSeek(per_token=True),))
    shaped = gate(two, summed(two), HistoryStore(), ctx)
    assert shaped.token_rewards_GT is not None
    assert [float(t.sum()) for t in shaped.token_rewards_GT] == pytest.approx([0.3, 0])


@pytest.mark.parametrize(("step", "expected"), [(0, 1.0), (4, 1.0), (5, 0.5), (9, 0.5), (10, 1.5)])
def test_stage(four: Group, step: int, expected: float):
    """No shaper before step 5, OTC from 5, Kimi from 10; read at the second and the first row."""
    staged = shaper("stage", until=[5, 10], stages=[[], [OTC_NODE], [KIMI_NODE]])
    row = 0 if step >= 10 else 1
    got = staged(four, summed(four), HistoryStore(), Ctx(step, 20, 0)).rewards_G
    assert got[row] == pytest.approx(expected)


def test_cap(four: Group, ctx: Ctx):
    """Kimi gives 1.5 1 .5 0; kept in [.2, 1.2]."""
    capped = shaper("cap", low=0.2, high=1.2, shapers=[KIMI_NODE])
    assert shaped_by(capped, four, ctx) == pytest.approx([1.2, 1.0, 0.5, 0.2])


def test_combinators_nest(four: Group, ctx: Ctx):
    """mul of a cap of kimi: factors 1.5 1 .5 1, wait for 1.2 at most."""
    inner = {"name": "cap", "high": 1.2, "shapers": [KIMI_NODE]}
    assert shaped_by(shaper("mul", shapers=[inner]), four, ctx) == pytest.approx([1.2, 1, 0.5, 0])


def test_outcome_names_four_endings(member: Member, group: Groups, ctx: Ctx):
    """LASER's base reward with Dr. GRPO's rule for truncated responses."""
    four = group(
        member(0, 1.0, answer="42"),
        member(1, 0.0, answer="41"),
        member(2, 0.0),
        member(3, 1.0, answer="42", stop=StopReason.MAX_TOKENS),
    )
    base = shaper("outcome", wrong=-0.5, missing=-1.0, truncated=0.0)
    assert shaped_by(base, four, ctx) == [1, -0.5, -1, 0]
    assert shaped_by(shaper("outcome", wrong=-1.0), four, ctx) == [1, -1, -1, 1]


def test_components_choose_what_counts(member: Member, group: Groups, ctx: Ctx):
    one = group(member(0, 1.0, rewards={"format": 0.2, "judge/thinking": 0.5}))
    chosen = shaper("components", weights={"env": 2.0, "judge/thinking": 1.0})
    assert shaped_by(chosen, one, ctx) == [2.5]


def test_a_chain_offers_every_write_once(member: Member, group: Groups, ctx: Ctx):
    one = group(member(0, 1.0, 10))
    start = summed(one)
    shaped = chain((Hapo(), KimiLength(), OTC()), one, start, HistoryStore(), ctx)
    assert sorted(w.namespace for w in shaped.writes) == ["hapo.min", "otc.min_calls"]


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("mul", {"shapers": []}, "at least 1"),
        ("add", {"shapers": [KIMI_NODE], "weights": [1, 2]}, "2 weights"),
        ("stage", {"until": [5], "stages": [[]]}, "1 stages"),
        ("stage", {"until": [5, 5], "stages": [[], [], []]}, "ascending"),
        ("cap", {}, "low or high"),
        ("cap", {"low": 2, "high": 1}, "low <= high"),
        ("mul", {"shapers": [{"name": "kimi_lenght"}]}, "kimi_length"),
        ("mul", {"shapers": [{"name": "otc", "forn": "ppo"}]}, "form"),
        ("gate", {"component": "format", "shapers": [{"form": "ppo"}]}, "required"),
    ],
)
def test_mistakes_inside_a_combinator_are_told(name: str, options: dict[str, Any], told: str):
    with pytest.raises(UserError, match=told):
        shaper(name, **options)


def test_nothing_is_mutated(four: Group, ctx: Ctx):
    start = summed(four)
    before = start.rewards_G.copy()
    shaper("mul", shapers=[OTC_NODE, KIMI_NODE])(four, start, HistoryStore(), ctx)
    assert isinstance(start, Shaped)
    assert np.array_equal(start.rewards_G, before)


def test_combinators_come_through_the_command_line_and_a_stored_config(
    four: Group, ctx: Ctx, tmp_path: Path
):
    """A dot-list with nested lists, dumped as a run folder does and read back, makes the same."""
    word = "algo.shapers=[{name: mul, shapers: [{name: otc, form: ppo}]}, {name: cap, high: 0.9}]"
    first = compose(["env=retool_math", word])
    stored = tmp_path / "config.yaml"
    stored.write_text(dump(first))
    for config in (first, compose([f"@{stored}"])):
        shapers = [build("shaper", node) for node in config.algo.shapers]
        shaped = chain(shapers, four, summed(four), HistoryStore(), ctx)
        assert shaped.rewards_G.tolist() == pytest.approx([0.9, 0.5, 0.3090, 0], abs=1e-4)
