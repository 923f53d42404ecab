"""The constants of recipes whose plans search, cut, pool, instruct or play roles, turned.

Plans are built as a run builds them, from the recipe's own words, and play a scripted policy in an
environment that pays an answer of 4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agentrl.chat.protocols.retool import ReTool
from agentrl.compose import compose
from agentrl.config import RunConfig
from agentrl.engine.base import Sampling
from agentrl.engine.scripted import Reply, ScriptedEngine
from agentrl.env import Action, Observation, StepInfo, StepResult
from agentrl.plugins import build
from agentrl.points import Ctx, Services
from agentrl.rollout.limits import Limits
from agentrl.rollout.loop import Episodes
from agentrl.rollout.parts import Parts
from agentrl.rollout.slots import Slots
from agentrl.train import setup
from agentrl.train.assemble import make_update
from agentrl.trajectory import Group
from agentrl.transcript import Origin
from agentrl.types import Message, Task
from agentrl_envs.tool_env import ToolEnv

CTX = Ctx(step=0, total_steps=10, seed=0)
TASK = Task("t", "Q", "4")
RIGHT = "<answer>4</answer>."
Says = Callable[[str, int], str]
"""The row as text and the request's number -> what the policy writes; a final `.` ends its turn."""


class Answered(ToolEnv):
    """Pays an answer of 4."""

    def first_messages(self, task: Task) -> Observation:
        return (Message("user", task.question),)

    async def judge(self, action: Action) -> StepResult:
        right = "<answer>4</answer>" in action.text
        return StepResult((), float(right), True, False, StepInfo(answer=action.text))


@pytest.fixture(scope="module")
def chat() -> Any:
    config = compose(["env=retool_math"])
    return setup.open_chat(config, setup.env_factory(config.env)())


def played(chat: Any, config: RunConfig, says: Says, *, step: int = 0, plan: Any = None) -> Group:
    """The group that the recipe's plan makes of such a policy."""
    renderer, tokenizer = chat.renderer, chat.tokenizer

    def write(row: Any, sampling: Sampling, index: int) -> Reply:
        text = says(tokenizer.decode(np.asarray(row)), index)
        ids = renderer.demo(text.removesuffix("."), ended=text.endswith(".")).tolist()
        return Reply(ids[: sampling.max_tokens], [-0.5] * min(len(ids), sampling.max_tokens))

    engine = ScriptedEngine(write, tokenizer=tokenizer, end_id=renderer.stop_ids[0])
    limits = Limits(turn_tokens=2000)
    partners = {"self": engine}
    parts = Parts(
        Answered, engine, renderer, ReTool(fence=False), limits, Sampling(1), Slots(64),
        partners=partners,
    )  # fmt: skip
    plan = plan or made(config)
    services = Services(Episodes(parts, seed=config.seed, in_flight=1), partners=partners)
    return asyncio.run(plan.collect(TASK, services, replace(CTX, step=step)))


def made(config: RunConfig) -> Any:
    return build("plan", config.rollout.plan, group_size=config.rollout.group_size)


@pytest.mark.parametrize(
    ("word", "rows"),
    [
        ("", [48, 24, 24, 24, 24]),
        ("rollout.plan.chunk=96", [96, 72, 72, 72, 72]),
        ("rollout.plan.carry=36", [48, 12, 12, 12, 12]),
        ("rollout.plan.chunks=2", [48, 24]),
    ],
)
def test_delethinks_rows(lab: Any, chat: Any, word: str, rows: list[int]) -> None:
    group = played(chat, lab.config("delethink", *filter(None, [word])), lambda row, i: "x" * 999)
    assert [row.n_sampled for row in group.trajectories[0].rows] == rows


def test_delethinks_clip(lab: Any) -> None:
    """A ratio of e^0.4 = 1.49 at A = 1: -1.26, turned -1.2."""
    now, old, ones = torch.tensor([[-0.5]]), torch.tensor([[-0.9]]), torch.ones(1, 1)
    for word, loss in (((), -1.26), (("algo.loss.high=0.2",), -1.2)):
        found = make_update(lab.config("delethink", *word)).loss(now, old, ones, ones.bool())[0]
        assert float(found) == pytest.approx(loss)


def node_starts(group: Group) -> set[int]:
    """Tokens behind the prompt at which trajectories were branched."""
    n = len(group.trajectories[0].rows[0].segments[0])
    return {t.fork_tokens - n for t in group.trajectories if t.fork_tokens is not None}


@pytest.mark.parametrize(
    ("word", "starts"),
    [("", {0, 32}), ("rollout.plan.node_tokens=5", {0, 35}), ("rollout.plan.width=8", {32})],
)
def test_deepsearchs_nodes(lab: Any, chat: Any, word: str, starts: set[int]) -> None:
    """Every path ends behind 32 tokens. Four end at once, wrong, which speaks against all but the root's
    own children: the next four begin there. With width 8 the first eight are enough."""
    config = lab.config("deepsearch", *filter(None, [word]))
    group = played(chat, config, lambda row, i: "no." if row.count("x") >= 32 else "x" * 32)
    assert node_starts(group) == starts


def test_deepsearchs_scores(lab: Any) -> None:
    """Right 1, wrong -1; turned 0."""
    for word, wrong in (((), -1.0), (("algo.shapers=[{name: outcome, wrong: 0.0}]",), 0.0)):
        rewards = lab.rewards(lab.config("deepsearch", *word)).tolist()
        assert rewards[:4] == [1.0, wrong, wrong, 1.0]


@pytest.mark.parametrize(("word", "votes"), [("", 16), ("rollout.plan.votes=12", 12)])
def test_ttrls_votes(lab: Any, chat: Any, word: str, votes: int) -> None:
    group = played(chat, lab.config("ttrl", *filter(None, [word])), lambda row, i: RIGHT)
    assert (len(group.trajectories), len(group.counted.trajectories)) == (votes, 8)


@pytest.mark.parametrize(("word", "weight"), [("", 0.1), ("rollout.plan.decay=0.5", 0.5)])
def test_inspos_credit(lab: Any, chat: Any, word: str, weight: float) -> None:
    config = lab.config("inspo", *filter(None, [word]))
    plan = made(config)
    group = played(chat, config, lambda row, i: RIGHT, plan=plan)
    paid = tuple(replace(t, reward=1.0) for t in group.trajectories)
    plan.observe([replace(group, trajectories=paid)], CTX)
    assert sorted(m.weight for m in plan.population) == pytest.approx([0.0, 0.0, 0.0, weight])


def test_inspos_pruning(lab: Any) -> None:
    """After the fourth step half are left; turned, after the second."""
    for word, steps in (((), 4), (("rollout.plan.every=2",), 2)):
        plan = made(lab.config("inspo", *word))
        for step in range(steps):
            assert len(plan.population) == 4
            plan.observe([], replace(CTX, step=step))
        assert len(plan.population) == 2


def thinking(row: str, index: int) -> str:
    return "<answer>4</answer>" if row.count("</think>") > row.count("<answer>") else "so</think>"


@pytest.mark.parametrize(
    ("word", "trained"),
    [("", ["long", "short"]), ("rollout.plan.trained=short", ["short", "short"])],
)
def test_long_shorts_turns(lab: Any, chat: Any, word: str, trained: list[str]) -> None:
    """Who is trained at steps 0 and 1."""
    for step, role in enumerate(trained):
        config = lab.config("long_short", *filter(None, [word]))
        group = played(chat, config, thinking, step=step)
        first, second = (s.origin for s in group.trajectories[0].rows[0].segments[1:])
        assert (first is Origin.MODEL, second is Origin.MODEL) == (role == "long", role == "short")


def test_long_shorts_length_weight(lab: Any) -> None:
    """Group a's lengths 5, 4, 5, 6: u = 0, .5, 0, -.5; turned, twice that."""
    config = lab.config("long_short")
    double = lab.config("long_short", "algo.shapers=[{name: kimi_length, weight: 2.0}]")
    assert lab.rewards(config).tolist()[:4] == [1.0, 0.0, 0.0, 0.5]
    assert lab.rewards(double).tolist()[:4] == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(("word", "bare"), [("", 4), ("rollout.plan.bare=0.25", 2)])
def test_rlads_bare_solvers(lab: Any, chat: Any, word: str, bare: int) -> None:
    config = lab.config("rlad", "rollout.plan.leak_samples=0", *filter(None, [word]))
    group = played(chat, config, lambda row, i: RIGHT, step=1)
    assert sum(t.excluded == "no_abstraction" for t in group.trajectories) == bare
    assert sum(t.rewards["env"] for t in group.trajectories) == 8 - bare


@pytest.mark.parametrize(("word", "asked"), [("", 8 * 5), ("rollout.plan.solutions=2", 8 * 3)])
def test_rlads_solvers_of_an_abstraction(lab: Any, chat: Any, word: str, asked: int) -> None:
    requests: list[int] = []

    def says(row: str, index: int) -> str:
        requests.append(index)
        return RIGHT

    words = ["rollout.plan.leak_samples=0", *filter(None, [word])]
    group = played(chat, lab.config("rlad", *words), says)
    assert [t.rewards["abstraction"] for t in group.trajectories] == [1.0] * 8
    assert len(requests) == asked


@pytest.mark.parametrize(
    ("word", "kept"), [("", 6), ("rollout.plan.every=9", 9), ("rollout.plan.repeats=11", 12)]
)
def test_trimrs_patience(lab: Any, chat: Any, word: str, kept: int) -> None:
    """`x` for ever: how much of it stands before the closing."""

    def says(row: str, index: int) -> str:
        return RIGHT if "settled" in row else "x" * 60

    group = played(chat, lab.config("trimr", *filter(None, [word])), says)
    row = group.trajectories[0].rows[0]
    before = [s.origin for s in row.segments].index(Origin.SCAFFOLD)
    assert sum(len(s) for s in row.segments[1:before]) == kept
    assert group.trajectories[0].correct


@pytest.mark.parametrize(("word", "n"), [("", 4), ("rollout.plan.attempts=2", 2)])
def test_spcs_attempts(lab: Any, chat: Any, word: str, n: int) -> None:
    group = played(chat, lab.config("spc", *filter(None, [word])), lambda row, i: "no.")
    assert [t.excluded for t in group.trajectories] == ["unsolved"] * n


def test_spcs_wins_and_its_ratio(lab: Any) -> None:
    """Advantages are 1 and -1; logprob gaps 0.3 and 0.5: e^0.4 as a mean, e^0.8 as a product."""
    config = lab.config("spc")
    batch = lab.estimated(config)
    assert set(batch.advantages[batch.mask].tolist()) == {1.0, -1.0}
    now, old = torch.tensor([[-0.5, -0.5]]), torch.tensor([[-0.8, -1.0]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    for word, ratio in (((), 1.49182), (("algo.loss.mean=false",), 2.22554)):
        loss = make_update(lab.config("spc", *word)).loss
        losses, _ = loss(now, old, -torch.ones(1, 2), mask)
        assert losses[0].tolist() == pytest.approx([ratio] * 2, rel=1e-4)
