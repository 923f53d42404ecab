"""DeepSearch: the published rules by number, a scripted tree by hand, tools, replay, determinism."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agentrl.algo.batch import make_batch
from agentrl.algo.deepsearch import DeepSearch as Advantage
from agentrl.engine.base import Sampling
from agentrl.engine.scripted import Reply
from agentrl.errors import EngineError, UserError
from agentrl.points import Ctx, Services
from agentrl.rewards.combine import Outcome
from agentrl.rollout.loop import Episodes
from agentrl.rollout.plans.deepsearch import DeepSearch, overlong
from agentrl.rollout.plans.rare_successes import REPLAYED
from agentrl.rollout.plans.search_tree import Frontier, Node, backed_up, path_weight, teacher, uct
from agentrl.train.collect import shape
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript

CTX = Ctx(step=3, total_steps=9, seed=0)


def path(n: int) -> list[Node]:
    """A root and its only line of descendants, one token each."""
    nodes = [Node(0, None, 0, 0, 1)]
    for depth in range(1, n):
        nodes.append(Node(0, nodes[-1], depth, depth, depth + 1))
    return nodes


def test_a_fresh_path_of_five() -> None:
    nodes = path(5)
    nodes[-1].back_up(1.0)
    assert [node.value for node in nodes] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert [node.visits for node in nodes] == [1] * 5
    nodes[-1].outcome = 1.0
    shown = [0.0, *np.tanh([0.4, 0.6, 0.8]), 1.0]
    assert nodes[-1].token_values().tolist() == pytest.approx(shown)


@pytest.mark.parametrize(
    ("value", "outcome", "after"),
    [(0.2, 1, 0.8), (0.4, -1, 0.4), (-0.4, 1, 0.6), (-0.2, -1, -0.8), (0.0, -1, -0.6)],
)
def test_the_overwrite_rule(value: float, outcome: float, after: float) -> None:
    assert path_weight(2, 5) == 0.6
    assert backed_up(value, 0.6, outcome) == pytest.approx(after)


def test_choosing() -> None:
    assert uct(0.5, 8, 2) == pytest.approx(2.5393, abs=1e-4)
    assert uct(0.5, 8, 2, explore=1.0) == pytest.approx(1.5197, abs=1e-4)
    assert (uct(0.5, 8, 0), uct(0.5, 0, 2)) == (0.5, 0.5)
    score = Frontier(entropy=0.0).score
    assert score(0.5, 9.0, 16, 64) == pytest.approx(0.1898, abs=1e-4)
    assert Frontier().score(0.5, 2.0, 16, 64) == pytest.approx(0.9898, abs=1e-4)
    assert path_weight(0, 64) == 0.1


Plans = Callable[..., Any]


@pytest.fixture
def search(world: Any) -> Plans:
    """Plays a plan with a script; every run is a fresh world."""

    async def play(script: Any, plan: DeepSearch, ctx: Ctx = CTX, **changes: Any) -> Group:
        parts = world.parts(world.script(script), **changes)
        services = Services(episodes=Episodes(parts, seed=5, retries=1))
        return await plan.collect(world.task, services, ctx)

    return play


def texts(world: Any, choose: Callable[[str, Sampling], tuple[str, float]]) -> Any:
    """A script that answers with a text and one logprob for all its tokens; `.` ends the turn."""
    tokenizer = world.renderer.tokenizer

    def write(row: Any, sampling: Sampling, index: int) -> Reply:
        text, logprob = choose(tokenizer.decode(np.asarray(row)), sampling)
        ids = world.renderer.demo(text.removesuffix("."), ended=text.endswith(".")).tolist()
        ids = ids[: sampling.max_tokens]
        return Reply(ids, [logprob] * len(ids))

    return write


async def test_a_tree_by_hand(world: Any, search: Plans) -> None:
    """Width 2, nodes of 3 bytes. Children of the root: `abc` (sure) and `xyz` (unsure).

    Round 1: both are open and unvisited, so the first is expanded and ends twice, wrong both times;
    its second child is surer of itself and is backed up: V = -1/3, -2/3, -1 on the way down.
    Round 2: of the frontier only `xyz` is left; it ends right and is backed up.
    """
    first = iter([("abc", -0.1), ("xyz", -2.0)])
    ends = {
        "abc": iter([("no.", -0.7), ("no.", -0.2)]),
        "xyz": iter([("<answer>4</answer>.", -1.0)] * 2),
    }

    def choose(row: str, sampling: Sampling) -> tuple[str, float]:
        kind = next((kind for kind in ends if row.endswith(kind)), None)
        return next(first) if kind is None else next(ends[kind])

    plan = DeepSearch(group_size=4, width=2, node_tokens=4, max_depth=9)
    found = await search(texts(world, choose), plan)
    assert [t.correct for t in found.trajectories] == [False, True, False, True]
    assert [t.sibling for t in found.trajectories] == [0, 1, 2, 3]
    assert {
        (t.rewards["search/nodes"], t.rewards["search/tokens"]) for t in found.trajectories
    } == {(7.0, float(6 + 2 * 3 + 2 * 4))}, (
        "the root, two and four children; of 3 tokens, no. and its end 3, the right ones 4"
    )
    assert found.token_rewards is not None
    values = [r[len(t.rows[0].segments[0]) :] for t, r in zip(
        found.trajectories, found.token_rewards, strict=True)]  # fmt: skip
    wrong, right = math.tanh(-2 / 3), math.tanh(2 / 3)
    assert values[0].tolist() == pytest.approx([wrong] * 3 + [-1.0] * 3)
    assert values[1].tolist() == pytest.approx([right] * 3 + [1.0] * 4)
    forked = [t for t in found.trajectories if t.parent is not None]
    assert {t.fork_tokens for t in forked} >= {len(found.trajectories[0].rows[0].segments[0])}


def random_tree(world: Any) -> Any:
    """Everything follows from the request's seed."""

    def write(row: Any, sampling: Sampling, index: int) -> Reply:
        rng = np.random.default_rng(sampling.seed)
        pieces = ["aaaa", "bbbb", "<code>1</code>", "<answer>4</answer>", "no"]
        text = rng.choice(pieces, p=[0.3, 0.2, 0.2, 0.15, 0.15])
        ended = text in ("no", "<answer>4</answer>")
        ids = world.renderer.demo(str(text), ended=ended).tolist()
        return Reply(ids, (-rng.uniform(0.1, 2.0, len(ids))).tolist())

    return write


@pytest.mark.parametrize("seed", range(4))
async def test_the_group_is_whole_and_repeatable(world: Any, search: Plans, seed: int) -> None:
    """Random trees with tool calls: sizes, order, values in [-1, 1], one behaviour logprob a token."""
    task = replace(world.task, id=f"t{seed}")
    world.task = task

    async def play() -> Group:
        return await search(random_tree(world), DeepSearch(group_size=5, width=3, node_tokens=4))

    one, two = await play(), await play()
    assert [t.uid for t in one.trajectories] == [t.uid for t in two.trajectories]
    for a, b in zip(one.trajectories, two.trajectories, strict=True):
        assert a.rows[0].token_ids.tolist() == b.rows[0].token_ids.tolist()
        assert (a.rows[0].mask == (a.rows[0].logprobs < 0)).all()
    assert [t.sibling for t in one.trajectories] == list(range(5))
    assert one.token_rewards is not None
    for t, values in zip(one.trajectories, one.token_rewards, strict=True):
        assert len(values) == t.n_tokens
        assert np.abs(values).max() <= 1
        assert values[-1] == (1.0 if t.correct else -1.0)
        assert not values[: len(t.rows[0].segments[0])].any()
    shared = [(t.parent, t.fork_tokens) for t in one.trajectories if t.parent is not None]
    by_uid = {t.uid: t for t in one.trajectories}
    for child in one.trajectories:
        if child.parent in by_uid:
            n = child.fork_tokens
            mother = by_uid[child.parent]
            assert mother.rows[0].token_ids[:n].tolist() == child.rows[0].token_ids[:n].tolist()
    assert shared


async def test_a_call_closes_its_node(world: Any, search: Plans) -> None:
    """The observation belongs to the node that called; the next node begins behind it."""
    turns = {0: "<code>1</code>", 1: "<answer>4</answer>."}

    def choose(row: str, sampling: Sampling) -> tuple[str, float]:
        return turns[row.count("</code>")], -0.5

    plan = DeepSearch(group_size=1, width=1, node_tokens=64)
    found = await search(texts(world, choose), plan)
    (trajectory,) = found.trajectories
    assert found.token_rewards is not None
    assert (trajectory.n_calls, trajectory.correct, world.log.code) == (1, True, ["1"])
    row, values = trajectory.rows[0], found.token_rewards[0]
    after = [len(s) for s in row.segments]
    call = slice(after[0], sum(after[:3]))
    assert values[call].tolist() == pytest.approx([math.tanh(2 / 3)] * (after[1] + after[2]))
    assert values[sum(after[:3]) :].tolist() == [1.0] * after[3]


async def test_a_path_too_deep_is_incomplete_and_branches_may_fail(
    world: Any, search: Plans
) -> None:
    plan = DeepSearch(group_size=2, width=2, node_tokens=2, max_depth=2)
    found = await search(texts(world, lambda row, s: ("aaaa", -0.5)), plan)
    assert [t.rows[0].n_sampled for t in found.trajectories] == [4, 4]
    assert not any(t.correct for t in found.trajectories)
    assert found.token_rewards is not None
    assert found.token_rewards[0][-1] == -1.0

    def failing(row: Any, sampling: Sampling, index: int) -> Reply:
        if index in (1, 2):
            raise EngineError("gone")
        return texts(world, lambda row, s: ("no.", -0.5))(row, sampling, index)

    found = await search(failing, DeepSearch(group_size=4, width=3, node_tokens=2))
    assert len(found.trajectories) == 4
    assert [t.error for t in found.trajectories] == [None] * 4, "the rest are plain samples"
    assert found.token_rewards is not None
    assert [len(v) for v in found.token_rewards] == [t.n_tokens for t in found.trajectories]


def test_the_surest_error_teaches(world: Any) -> None:
    """Unless something is right."""

    def leaf(outcome: float, logprob: float) -> Node:
        row = Transcript().append(
            Segment(Origin.PROMPT, [1]), Segment(Origin.MODEL, [2, 3], [logprob] * 2, version=0)
        )
        trajectory = Trajectory("u", world.task, 0, (row,), (), StopReason.TERMINATED)
        return Node(0, None, 1, 1, 3, outcome=outcome, trajectory=trajectory)

    unsure, sure, right = leaf(-1, -2.0), leaf(-1, -0.1), leaf(1, -3.0)
    assert teacher([unsure, sure]) is sure
    assert teacher([unsure, sure, right]) is right


def rare(found: Group, right: int) -> Group:
    members = tuple(
        replace(t, rewards={"env": float(i < right)}, reward=1.0)
        for i, t in enumerate(found.trajectories)
    )
    return replace(found, trajectories=members)


@pytest.mark.parametrize(
    ("right", "rate", "kept"), [(0, 0.25, 0), (1, 0.25, 1), (2, 0.25, 0), (2, 0.5, 2)]
)
async def test_rare_successes_come_again(
    world: Any, search: Plans, right: int, rate: float, kept: int
) -> None:
    """1 of 4 right is rare, 2 of 4 are not unless the bound is turned to one half."""
    plan = DeepSearch(group_size=4, width=2, node_tokens=4, rare=rate)
    script = texts(world, lambda row, s: ("no.", -0.5))
    first = await search(script, plan)
    plan.observe([rare(first, right)], CTX)
    again = DeepSearch(group_size=4, width=2, node_tokens=4, rare=rate)
    again.restore(json.loads(json.dumps(plan.state())))
    found = await search(script, again, replace(CTX, step=7))
    old = [t for t in found.trajectories if t.uid.endswith(REPLAYED)]
    assert len(old) == kept
    assert [t.sibling for t in found.trajectories] == [0, 1, 2, 3]
    if not kept:
        return
    assert old[0].uid == f"7/{world.task.id}/0{REPLAYED}"
    assert (old[0].reward, old[0].n_executed) == (None, 0)
    assert old[0].rows[0].logprobs.tolist() == first.trajectories[0].rows[0].logprobs.tolist()
    assert found.token_rewards is not None
    assert [v[-1] for v in found.token_rewards] == [1.0] * kept + [-1.0] * (4 - kept)
    assert all(t.parent is None for t in found.trajectories), "nothing was searched"
    again.observe([rare(found, kept)], CTX)
    assert again.state() == plan.state(), "its own successes of before are no news"
    forgets = rare(found, 4)
    again.observe([forgets], CTX)
    assert again.state() == {}


async def test_values_become_advantages(world: Any, search: Plans) -> None:
    """A_t = value - mean score; scores 1 and -1 of two leaves have mean 0, so A is the value."""
    answers = iter(["<answer>4</answer>.", "no."])
    script = texts(world, lambda row, s: (next(answers), -0.5))
    found = await search(script, DeepSearch(group_size=2, width=2, node_tokens=64))
    shaped, _ = shape(found, [Outcome(wrong=-1.0)], None, CTX)  # type: ignore[arg-type]
    batch = make_batch([shaped], pad_id=0)
    advantages = Advantage()(batch, CTX)
    assert torch.equal(advantages[0], batch.mask[0].float())
    assert torch.equal(advantages[1], -batch.mask[1].float())


@pytest.mark.parametrize("cache", [4, 2])
async def test_length_costs_every_token_and_the_score(
    world: Any, search: Plans, cache: int
) -> None:
    """`nonono` and its end are 7 tokens, `no` 3. Of 8, a ramp over 4 costs 3/4 of them, over 2 a half."""
    assert [overlong(n, 20480, 4096) for n in (16384, 18432, 20480)] == [0.0, -0.5, -1.0]
    answers = iter(["nonono.", "no."])
    script = texts(world, lambda row, s: (next(answers), -0.5))
    plan = DeepSearch(group_size=2, width=2, node_tokens=64, long_tokens=8, long_cache=cache)
    found = await search(script, plan)
    cost = {4: -0.75, 2: -0.5}[cache]
    assert [t.rewards["overlong"] for t in found.trajectories] == [cost, 0.0]
    assert found.token_rewards is not None
    assert [float(v[-1]) for v in found.token_rewards] == [-1.0 + cost, -1.0]
    shaped, _ = shape(found, [Outcome(wrong=-1.0)], None, CTX)  # type: ignore[arg-type]
    assert [t.reward for t in shaped.trajectories] == [-1.0 + cost, -1.0]
    batch = make_batch([shaped], pad_id=0)
    advantages = Advantage()(batch, CTX)
    of_each = [float(advantages[i][batch.mask[i]].mean()) for i in range(2)]
    assert of_each == pytest.approx([cost / 2, -cost / 2])


def test_options_are_checked() -> None:
    wrong: Mapping[str, float] = {"width": 0, "rare": 1.0}
    for name, value in wrong.items():
        with pytest.raises(UserError):
            DeepSearch(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("most", "correct"), [(4, True), (2, False)])
async def test_worst_nodes_are_given_up(
    world: Any, search: Plans, most: int, correct: bool
) -> None:
    """Children `ab` and the surer `yz`, then two unsure `cd` under `ab`: with room for two, `yz` goes.

    Both `cd` end wrong; then `yz`, which would end right, is all that is left. Without it the group is
    filled up with plain samples, wrong ones.
    """
    first = iter([("ab", -2.0), ("yz", -0.1)])
    after = {"ab": ("cd", -1.5), "cd": ("no.", -0.5), "yz": ("<answer>4</answer>.", -0.5)}

    def choose(row: str, sampling: Sampling) -> tuple[str, float]:
        return after.get(row[-2:]) or next(first, ("no.", -0.5))

    plan = DeepSearch(group_size=6, width=2, node_tokens=9, max_depth=9, open_nodes=most)
    found = await search(texts(world, choose), plan)
    assert len(found.trajectories) == 6
    assert any(t.correct for t in found.trajectories) is correct
