"""Delethink's environment: machines by hand, chunks, the published sizes, and rows through the loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from agentrl.algo.batch import make_batch
from agentrl.algo.loss import Aggregate
from agentrl.chat.nano import NanoRenderer, build_nano_tokenizer
from agentrl.chat.protocols.hermes import Hermes
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.engine.base import Sampling
from agentrl.engine.scripted import Reply, ScriptedEngine
from agentrl.env import Action
from agentrl.errors import UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.limits import Limits, Slots
from agentrl.rollout.loop import Episodes, run_episode
from agentrl.rollout.parts import Names, Parts
from agentrl.rollout.plans.delethink import Delethink as DelethinkPlan
from agentrl.testing import check_env, failures
from agentrl.train.demos import demonstrations
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.transcript import Origin
from agentrl.types import Task
from agentrl_envs.delethink import Delethink
from agentrl_envs.delethink.chunks import Chunks
from agentrl_envs.delethink.machines import MACHINES, line, question

SUM = Task(
    "sums/0", "5a3b2c1d3", "4", {"machine": "sums", "start": "5", "operations": list("3213")}
)
"""5 +3 +2 +1 +3, last digits 8, 0, 1, 4."""


LONG = Task(
    "sums/1", "5a1b1c1d1e1", "0", {"machine": "sums", "start": "5", "operations": list("11111")}
)
"""Five lines of three characters: chunks of two, one, one and one."""


def terse(**options: Any) -> Delethink:
    given = {"machines": ("sums",), "steps": (6, 10), "chunk": 6, "carry": 3, "chunks": 10}
    return Delethink(style="terse", **{**given, **options})


@pytest.mark.parametrize(
    ("name", "start", "operations", "states"),
    [
        ("sums", "8", ["3", "1", "2"], ["1", "2", "4"]),
        ("registers", "98,7", ["x5", "y9", "s", "+"], ["3,7", "3,63", "63,3", "66,3"]),
        ("strings", "abcde", ["r", "<", "x", "+z"], ["edcba", "dcbae", "ecbad", "cbadz"]),
    ],
)
def test_machines_by_hand(name: str, start: str, operations: list[str], states: list[str]):
    assert MACHINES[name].run(start, operations) == states


def test_the_question_in_both_styles():
    machine = MACHINES["registers"]
    assert question(machine, "1,2", ["x3", "s", "y4", "+"], "terse") == "1,2ax3bscy4d+"
    assert question(machine, "1,2", ["x3", "s", "y4", "+"], "plain") == (
        "Carry out 4 steps in order, starting from 1,2. The state is x,y; both are kept modulo 100.\n"
        "1. add 3 to x\n2. swap x and y\n3. multiply y by 4\n4. add y to x\n"
        "Give the last state in <answer></answer> tags."
    )
    assert (line(2, "y4", "4,8", "terse"), line(2, "y4", "4,8", "plain")) == ("cy44,8", "3: 4,8\n")


async def test_a_chunk_is_carried_over_by_hand():
    env = terse()
    (first,) = await env.reset(SUM, seed=0)
    assert first.content == "5a3b2c1d3"
    on = await env.step(Action("a38b20"))
    assert on[1:4] == (0.0, False, False)
    assert (on.observation[0].content, on.info.context) == ("5a3b2c1d3|b20", "chunk 2")
    on = await env.step(Action("c11"))
    assert (on.observation[0].content, on.info.context) == ("5a3b2c1d3|c11", "chunk 3")
    last = await env.step(Action("d34<answer>4</answer>"))
    assert last[:4] == ((), 1.0, True, False)
    assert last.info.answer == "4"


async def test_what_is_written_beyond_the_room_is_lost():
    """The second context has room for 6 - 3 characters; an answer that begins behind them too."""
    env = terse()
    await env.reset(SUM, seed=0)
    on = await env.step(Action("a38b20c11"))
    assert on.observation[0].content == "5a3b2c1d3|b20"
    on = await env.step(Action("c11...<answer>4</answer>"))
    assert on.observation[0].content == "5a3b2c1d3|c11"
    assert not on.terminated


async def test_an_answer_may_straddle_a_boundary_and_is_read_once():
    env = terse(chunk=12, carry=4)
    await env.reset(SUM, seed=0)
    await env.step(Action("d34<answer>4"))
    last = await env.step(Action("</answer>"))
    assert (last.reward, last.terminated, last.info.answer) == (1.0, True, "4")


async def test_the_head_is_carried_as_well():
    env = terse(chunk=8, carry=4, keep_head=1)
    await env.reset(SUM, seed=0)
    assert (await env.step(Action("abcdefgh"))).observation[0].content == "5a3b2c1d3|afgh"
    assert (await env.step(Action("ijkl"))).observation[0].content == "5a3b2c1d3|ajkl"


@pytest.mark.parametrize(
    ("n", "turns", "ended"),
    [
        (10_000, [8192, 1808], True),
        (20_480, [8192, 4096, 4096, 4096], True),
        (30_000, [8192, 4096, 4096, 4096, 4096], False),
    ],
)
async def test_the_published_sizes(n: int, turns: list[int], ended: bool):
    """C=8192, m=4096, I=5: 24,576 in all. Whoever writes all there is room for has these turns."""
    sizes = Chunks(8192, 4096, 100, 5)
    assert sizes.budget == 24_576
    env = Delethink(machines=("sums",), chunk=8192, carry=4096, keep_head=100, chunks=5)
    await env.reset(SUM, seed=0)
    text, written, response = "abcdefghij" * (n // 10), list[int](), ""
    result = None
    while len(response) < n and (result is None or not result.truncated):
        part = text[len(response) :][: sizes.room(response)]
        response, written = response + part, [*written, len(part)]
        end = "<answer>4</answer>" if len(response) == n else ""
        result = await env.step(Action(part + end))
    assert written == turns
    assert result is not None
    assert (result.terminated, result.truncated) == (ended, not ended)
    assert result.reward == float(ended)


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> NanoRenderer:
    folder: Path = tmp_path_factory.mktemp("nano")
    build_nano_tokenizer(folder)
    return NanoRenderer(load_tokenizer(folder))


def parts(renderer: NanoRenderer, turns: Sequence[str], env: Delethink) -> Parts:
    def write(token_ids: object, sampling: Sampling, index: int) -> Reply:
        ids = renderer.demo(turns[index], ended=True).tolist()[: sampling.max_tokens]
        return Reply(ids, [-0.5] * len(ids))

    engine = ScriptedEngine(write, tokenizer=renderer.tokenizer)
    limits = Limits(max_turns=9, turn_tokens=200, max_tokens=400)
    return Parts(lambda: env, engine, renderer, Hermes(), limits, Sampling(200), Slots(4))


async def played(renderer: NanoRenderer, turns: Sequence[str], task: Task = SUM) -> Trajectory:
    made = parts(renderer, turns, terse())
    return await run_episode(task, made, Names(0, 0, task))


async def test_one_trajectory_has_a_row_for_every_chunk(renderer: NanoRenderer):
    """Carried characters are prompt, mask 0; each row trains what was written in it alone."""
    found = await played(renderer, ["a38b20", "c11", "d34<answer>4</answer>"])
    assert found.stop is StopReason.TERMINATED
    assert found.rewards == {"env": 1.0}
    assert [row.context for row in found.rows] == ["", "chunk 2", "chunk 3"]
    assert [row.n_sampled for row in found.rows] == [7, 4, 7]
    told = [renderer.tokenizer.decode(row.token_ids[: -row.n_sampled]) for row in found.rows]
    assert told[1] == "<|user|>5a3b2c1d3|b20<|end|><|assistant|>"
    assert [int(row.mask.sum()) for row in found.rows] == [7, 4, 7]


async def test_a_demonstration_teaches_every_row(renderer: NanoRenderer):
    """Chunks of two lines, then one and one: three rows, each taught what was written in it."""
    rows = await demonstrations([SUM], parts(renderer, [], terse()), 0, lambda _: None)
    taught = [
        [s.token_ids.tolist() for s in row.segments if s.origin is Origin.DEMO] for row in rows
    ]
    turns = ("a38b20", "c11", "d34<answer>4</answer>")
    assert taught == [[renderer.demo(text, ended=True).tolist()] for text in turns]


async def test_the_loss_is_a_mean_over_trajectories(renderer: NanoRenderer):
    """With seq-mean-token-mean rows of 7, 4 and 7 tokens weigh 7/18, 4/18 and 7/18 of their trace."""
    long = await played(renderer, ["a38b20", "c11", "d34<answer>4</answer>"])
    short = await played(renderer, ["<answer>4</answer>"])
    scored = tuple(replace(trajectory, reward=1.0) for trajectory in (long, short))
    batch = make_batch([Group(SUM, scored)], pad_id=0)
    aggregate = Aggregate("seq-mean-token-mean")
    rows: list[float] = []
    for i in range(4):
        ones = torch.zeros_like(batch.mask, dtype=torch.float32)
        ones[i] = batch.mask[i].float()
        rows.append(2 * float(aggregate(ones, batch)))
    assert rows == pytest.approx([7 / 18, 4 / 18, 7 / 18, 1.0])


async def test_the_plan_cuts_one_long_turn_by_tokens(renderer: NanoRenderer):
    """The same task with renew=false: rows of 6, 3 and 3 new tokens, joined before they are scored."""
    text = "a38b20c11d34<answer>4</answer>"

    def write(token_ids: object, sampling: Sampling, index: int) -> Reply:
        ids = renderer.demo(text, ended=True).tolist()[done[0] :][: sampling.max_tokens]
        done[0] += len(ids)
        return Reply(ids, [-0.5] * len(ids))

    done = [0]
    engine = ScriptedEngine(write, tokenizer=renderer.tokenizer)
    made = parts(renderer, [], terse(renew=False))
    made = replace(made, engine=engine)
    services = Services(episodes=Episodes(made, seed=1, retries=0))
    plan = DelethinkPlan(group_size=1, chunk=6, carry=3, keep_head=0, chunks=5)
    (found,) = (await plan.collect(SUM, services, Ctx(0, 1, 0))).trajectories
    assert [row.n_sampled for row in found.rows] == [6, 3, 3, 3, 1]
    assert found.rewards == {"env": 1.0}


async def test_it_keeps_the_env_contract():
    for env in (Delethink, terse):
        results = await check_env(env)
        assert failures(results) == []
        told = {result.name: result.detail for result in results}
        assert "mean reward 1.000" in (told["expert reaches the floor it declares"] or "")


async def test_the_demonstrator_may_forget_what_to_carry():
    """Half of them leave dots and guess; their reward is half of one and a tenth of the rest."""
    env = terse(chunk=12, carry_habit=0.5)
    total, dots = 0.0, 0
    for task in islice(env.tasks("train", seed=1), 400):
        await env.reset(task, seed=0)
        turns = list(env.expert(task, seed=2))
        dots += turns[0].endswith("...")
        for turn in turns:
            total += (await env.step(Action(turn))).reward
    assert dots / 400 == pytest.approx(0.5, abs=0.08)
    assert total / 400 == pytest.approx(0.55, abs=0.08)


def test_tasks_are_disjoint_and_long_as_asked():
    env = Delethink(steps=(3, 5))
    train = list(islice(env.tasks("train", seed=0), 200))
    test = list(islice(env.tasks("test", seed=0), 50))
    assert not {t.question for t in train} & {t.question for t in test}
    assert {len(t.metadata["operations"]) for t in train} == {3, 4, 5}  # type: ignore[arg-type]
    assert {t.metadata["machine"] for t in train} == set(MACHINES)


async def test_branches_are_independent():
    env = terse()
    await env.reset(SUM, seed=0)
    await env.step(Action("a38b20"))
    one, two = await env.fork(2)
    assert (await one.step(Action("c11"))).observation[0].content.endswith("|c11")
    assert (await two.step(Action("c99"))).observation[0].content.endswith("|c99")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"machines": ("abacus",)}, "'abacus' is not a machine"),
        ({"machines": ()}, "is empty"),
        ({"carry": 6}, r"env\.carry < env\.chunk"),
        ({"steps": (0, 3)}, r"env\.steps is \[shortest, longest\]"),
        ({"steps": (60, 60)}, "names for 52 steps"),
        ({"chunks": 0}, r"env\.chunks is at least 1"),
        ({"carry_habit": 2.0}, "is a probability"),
    ],
)
def test_mistakes(options: dict[str, Any], told: str):
    with pytest.raises(UserError, match=told):
        terse(**options)


def test_an_expert_without_room_says_what_to_set():
    with pytest.raises(UserError, match=r"set env\.chunks=4"):
        terse(chunks=2).expert(LONG, seed=0)
    with pytest.raises(UserError, match=r"set env\.carry"):
        terse(chunk=6, carry=2).expert(SUM, seed=0)
    with pytest.raises(UserError, match="splits train and test"):
        next(terse().tasks("dev", seed=0))
    assert terse().random_turn(Random(0)).startswith("<answer>")
