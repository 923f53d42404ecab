"""What every shaper must keep, found through the registry: a new one is tested by being registered."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from agentrl.config import Plugin
from agentrl.history import HistoryStore
from agentrl.plugins import build
from agentrl.points import Ctx, RewardShaper, Shaped
from agentrl.registry import names
from agentrl.rewards.base import summed
from agentrl.trajectory import CallRecord, Group, Trajectory
from agentrl.transcript import Origin, Segment, Transcript
from agentrl.types import Task

Member = Callable[..., Trajectory]
Groups = Callable[..., Group]
Calls = Callable[..., CallRecord]

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "overlong": {"max_tokens": 30, "cache_tokens": 20},
    "laser": {"target_tokens": 20},
    "laser_d": {"every": 1, "low_tokens": 8, "high_tokens": 40, "step_tokens": 8},
    "hapo": {"repetition": 0.1},
    "noise": {"per": "sample"},
    "memory_r": {"warm_steps": 0, "capacity": 3},
    "reseek": {"per_token": True},
    "components": {"weights": {"env": 1.0, "format": 0.5}},
    "mul": {"shapers": [{"name": "otc"}, {"name": "kimi_length"}]},
    "add": {"shapers": [{"name": "otc"}, {"name": "hapo"}], "weights": [1.0, 0.5]},
    "gate": {"component": "format", "shapers": [{"name": "kimi_length"}]},
    "stage": {"until": [1], "stages": [[], [{"name": "otc"}]]},
    "cap": {"high": 0.9, "shapers": [{"name": "kimi_length"}]},
}
"""Options that a shaper needs, or that make it do the most."""

OFF: Mapping[str, Mapping[str, Any]] = {
    "hapo": {"w": 0.0},
    "laser": {"target_tokens": 20, "alpha": 0.0},
    "laser_d": {"alpha": 0.0},
    "adaptthink": {"delta": 0.0, "reference": 0.0},
    "adactrl": {"right": 1.0, "wrong": 0.0, "tag": 0.0, "brevity": 0.0},
    "campo": {"weight": 0.0},
    "rlsp": {"effort": None, "penalty": 0.0, "unanswered": 0.0},
    "kimi_length": {"weight": 0.0},
    "trust": {"alpha": 0.0},
    "p_grpo": {"weight": 0.0},
    "capo_tokens": {"outcome": 1.0, "penalty": 0.0},
    "noise": {"p": 0.0},
    "memory_r": {"exploit": 0.0, "explore": 0.0},
    "turn_calls": {"success": 0.0},
    "rpr": {"weight": 0.0},
    "cort": {"penalty": 0.0},
    "reseek": {"match": 0.0, "false_yes": 0.0, "false_no": 0.0},
    "overlong": {"max_tokens": 30, "cache_tokens": 20, "factor": 0.0},
    "outcome": {},
    "search_r1": {"structure": 0.0, "final": 0.0},
    "add": {"shapers": [{"name": "otc"}], "weights": [0.0]},
    "mul": {"shapers": [{"name": "kimi_length", "weight": 0.0}]},
    "stage": {"until": [], "stages": [[]]},
    "cap": {"high": 99.0},
    "gate": {"component": "format", "above": -1.0},
}
"""Options under which a shaper does nothing."""

SHAPERS = [name for name in names("shaper") if not name.startswith("broken")]
SCORES = ("judge/thinking", "judge/exploration", "rpr/score", "rlpr/prob", "rlpr/base")
STEPS = ("tattoo", "tattoo/step/0", "tattoo/step/1")
COUNTS = ("ur2/violations", "ur2/queries", "ur2/fallbacks", "capo/steps", "r3/answer_tokens")
TASK = Task("t", "?", "42", {"retrieval": True, "labels": [1, -1]})


@pytest.fixture
def make(tokenizer) -> Callable[..., RewardShaper]:  # type: ignore[no-untyped-def]
    def made(name: str, options: Mapping[str, Any] | None = None) -> RewardShaper:
        chosen = OPTIONS.get(name, {}) if options is None else options
        node = Plugin.model_validate({"name": name, **chosen})
        return build("shaper", node, tokenizer=tokenizer)

    return made


@pytest.fixture
def varied(member: Member, group: Groups, call: Calls) -> Callable[..., Group]:
    """A group with every component a shaper may read, different in each member."""

    def made(seed: int, n: int, ok: Callable[[int], float] = lambda i: float(i % 2)) -> Group:
        rng = Random(seed)
        openings = ["[Easy] </think>", "[Hard]", "</think>", "<think>a</think>"]
        members: list[Trajectory] = []
        for i in range(n):
            rewards = {name: rng.random() for name in (*SCORES, *STEPS)}
            rewards |= {name: float(rng.randrange(4)) for name in COUNTS}
            rewards |= {"format": float(rng.random() < 0.5), "judge/answer": float(i % 3)}
            rewards |= {f"r3/{k}/{j}": -rng.random() for k in ("logp", "masked") for j in (0, 1)}
            rewards |= {"capo/wrong/0": 1.0, "med_r3/format": rng.choice([0.5, 1.0])}
            ids = [rng.randrange(2, 6) for _ in range(rng.randrange(1, 40))]
            members.append(
                member(
                    i,
                    ok(i),
                    rewards=rewards,
                    turns=(rng.choice(openings) + "x" * i, "<judge>Yes</judge><answer>42</answer>"),
                    observations=(rng.choice(["it is 42", "no"]),),
                    turn_ids=[ids, [2, 3]],
                    calls=[call()] * rng.randrange(4),
                    answer=rng.choice(["42", "41", None]),
                    task=TASK,
                )
            )
        return group(*members)

    return made


def seasoned(shaper: RewardShaper, varied: Callable[..., Group], steps: int = 2) -> HistoryStore:
    """A store after some steps of the shaper itself."""
    history = HistoryStore()
    for step in range(steps):
        earlier = varied(100 + step, 4)
        history.commit(shaper(earlier, summed(earlier), history, Ctx(step, 10, 0)).writes)
    return history


def same(a: Shaped, b: Shaped) -> bool:
    tokens = zip(a.token_rewards_GT or (), b.token_rewards_GT or (), strict=True)
    return np.array_equal(a.rewards_G, b.rewards_G) and all(np.array_equal(x, y) for x, y in tokens)


CTX = Ctx(step=3, total_steps=10, seed=1)


@pytest.mark.parametrize("name", SHAPERS)
def test_siblings_permute(name: str, make, varied) -> None:  # type: ignore[no-untyped-def]
    """Another order of siblings gives the same verdicts in that order, and the same writes."""
    shaper = make(name)
    history = seasoned(shaper, varied)
    one = varied(0, 6)
    shaped = shaper(one, summed(one), history, CTX)
    order = [3, 0, 5, 1, 4, 2]
    other = replace(one, trajectories=tuple(one.trajectories[i] for i in order))
    again = shaper(other, summed(other), history, CTX)
    assert again.rewards_G.tolist() == pytest.approx(shaped.rewards_G[order].tolist(), abs=1e-6)
    if shaped.token_rewards_GT is not None:
        for k, i in enumerate(order):
            assert np.array_equal(again.token_rewards_GT[k], shaped.token_rewards_GT[i])
    assert set(again.writes) == set(shaped.writes)


@pytest.mark.parametrize("name", SHAPERS)
def test_groups_of_none_one_and_equals_are_no_nan(name: str, make, varied) -> None:  # type: ignore[no-untyped-def]
    shaper = make(name)
    for n in (0, 1, 4):
        for value in (0.0, 1.0):
            members = varied(n, n, lambda _, value=value: value)
            members = replace(members, task=TASK)
            shaped = shaper(members, summed(members), HistoryStore(), CTX)
            assert shaped.rewards_G.shape == (n,)
            assert np.isfinite(shaped.rewards_G).all()
            assert shaped.rewards_G.dtype == np.float32
            assert all(math.isfinite(w.value) for w in shaped.writes)


@pytest.mark.parametrize("name", SHAPERS)
def test_same_seed_same_verdict_and_state_survives_a_checkpoint(name: str, make, varied) -> None:  # type: ignore[no-untyped-def]
    shaper = make(name)
    history = seasoned(shaper, varied)
    stored = HistoryStore.from_json(json.loads(json.dumps(history.to_json())))
    one = varied(5, 5)
    first = shaper(one, summed(one), history, CTX)
    assert same(first, make(name)(one, summed(one), stored, CTX))
    history.commit(first.writes)
    stored.commit(first.writes)
    assert same(shaper(one, summed(one), history, CTX), shaper(one, summed(one), stored, CTX))


@pytest.mark.parametrize("name", SHAPERS)
def test_observation_ids_touch_nothing(name: str, make, varied) -> None:  # type: ignore[no-untyped-def]
    shaper = make(name)
    history = seasoned(shaper, varied)
    one = varied(2, 4)
    changed = replace(one, trajectories=tuple(map(perturbed, one.trajectories)))
    shaped = shaper(one, summed(one), history, CTX)
    assert same(shaped, shaper(changed, summed(changed), history, CTX))


def perturbed(trajectory: Trajectory) -> Trajectory:
    row = Transcript()
    for segment in trajectory.rows[0].segments:
        ids = segment.token_ids + (segment.origin is Origin.OBSERVATION) * 11
        row = row.append(
            replace(segment, token_ids=ids) if isinstance(segment, Segment) else segment
        )
    return replace(trajectory, rows=(row,))


@pytest.mark.parametrize("name", OFF)
def test_switched_off_it_is_not_there(name: str, make, varied) -> None:  # type: ignore[no-untyped-def]
    """Bit for bit the summed reward, on a group whose answers are given iff they are right."""
    shaper = make(name, OFF[name])
    one = varied(4, 6)
    told = [replace(t, answer="42" if t.correct else "41") for t in one.trajectories]
    one = replace(one, trajectories=tuple(told))
    start = summed(one)
    shaped = shaper(one, start, seasoned(shaper, varied), CTX)
    assert np.array_equal(shaped.rewards_G, start.rewards_G)
    assert all(not tokens.any() for tokens in shaped.token_rewards_GT or ())


def test_adaptthink_off_on_an_all_thinking_group_keeps_the_advantages(make, varied, member: Member):  # type: ignore[no-untyped-def]
    """With delta 0 only a constant is taken off, which a group-centred advantage does not see."""
    one = replace(varied(4, 4), trajectories=())
    thinking = [member(i, float(i % 2), turns=("<think>a</think>",), task=TASK) for i in range(4)]
    one = replace(one, trajectories=tuple(thinking))
    shaped = make("adaptthink", {"delta": 0.0})(one, summed(one), HistoryStore(), CTX)
    centred = shaped.rewards_G - shaped.rewards_G.mean()
    assert centred.tolist() == (summed(one).rewards_G - summed(one).rewards_G.mean()).tolist()
