"""Judged evidence: the hard mask, the corrections, and ReSeek's sums, through the real loop."""

from __future__ import annotations

from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest

from agentrl.chat.protocols.search_r1 import SearchR1
from agentrl.context import Context
from agentrl.errors import UserError
from agentrl.rewards.reseek import ReSeek as ReSeekReward
from agentrl.testing import check_env
from agentrl.testing.fakes import FakePool
from agentrl.transcript import ids_array
from agentrl.types import Task
from agentrl_envs.search_qa.evidence import misses, supports, verdict
from agentrl_envs.search_qa.ideal import ReSeekIdeal
from agentrl_envs.search_qa.reseek import JUDGE_FIRST, SEARCH_AGAIN, ReSeek

ADA, CAROL, REX = (f"<search> {q} </search>" for q in ("Ada owns", "Carol met", "Rex fed"))
YES, NO = "<judge>Yes</judge>", "<judge>No</judge>"
BOB = "<answer> Bob </answer>"


def judging() -> ReSeek:
    return ReSeek(top_k=1)


def lenient() -> ReSeek:
    return ReSeek(top_k=1, strict=False)


@pytest.mark.parametrize("style", ["terse", "plain"])
async def test_keeps_every_promise(style: str) -> None:
    found = await check_env(lambda: ReSeek(style=style, people=60), pool=FakePool(lambda _: ""))
    assert [c for c in found if not c.ok or c.detail.startswith("skipped")] == []


@pytest.mark.parametrize(
    ("gamma", "turns", "reward"),
    [
        # (Yes, j* Yes), (Yes, j* No), (No, j* Yes), EM 1: 0.3 - 0.6 - 0.3 + 1
        (1.0, (ADA, YES + CAROL, YES + REX, NO + BOB), 0.4),
        # (Yes, Yes), (No, No), EM 1: 0.3 + 0.9 * 0.3 + 0.81
        (0.9, (ADA, YES + CAROL, NO + BOB), 1.38),
        (1.0, (BOB,), 1.0),
    ],
)
async def test_the_papers_sums(
    stage: Any, gamma: float, turns: tuple[str, ...], reward: float
) -> None:
    played = await stage.play(lenient, stage.dogs, *turns)
    shaped = await stage.rewarded(played, [ReSeekIdeal()], [ReSeekReward(gamma=gamma)])
    assert shaped.rewards_G.tolist() == pytest.approx([reward])


async def test_rejected_evidence_is_not_in_the_next_prompt(stage: Any) -> None:
    """Two rows: the first ends with the rejecting turn, the second retells it without the evidence.

    What was sampled before stays trained as it was; nothing that is retold is.
    """
    played = await stage.play(judging, stage.dogs, ADA, YES + CAROL, NO + REX, YES + BOB)
    first, second = played.rows
    engine = stage.engine
    assert "Carol met Ada" in stage.text(engine.rows[2])
    assert "Carol met Ada" not in stage.text(engine.rows[3])
    for kept in ("Who feeds the dog", "Ada owns Rex.", "Rex is fed by Bob.", NO + REX):
        assert kept in stage.text(engine.rows[3])
    assert first.token_ids.tolist() == engine.rows[2] + engine.generated[2]
    assert second.token_ids.tolist() == engine.rows[3] + engine.generated[3]
    wrote = [len(ids) for ids in engine.generated]
    assert [int(row.mask.sum()) for row in played.rows] == [sum(wrote[:3]), wrote[3]]
    assert second.context == "kept-1"
    assert played.rewards["env"] == 1.0


async def test_kept_evidence_stays_in_one_row(stage: Any) -> None:
    played = await stage.play(
        lambda: ReSeek(top_k=1, rejected="kept"), stage.dogs, CAROL, NO + REX, YES + BOB
    )
    assert len(played.rows) == 1
    assert "Carol met Ada" in stage.text(stage.engine.rows[2])


async def test_each_judgement_is_paid_where_it_was_made(stage: Any) -> None:
    """No to bad evidence ends the first row, Yes to good evidence stands in the last turn: 0.3 each."""
    played = await stage.play(judging, stage.dogs, CAROL, NO + REX, YES + BOB)
    shaped = await stage.rewarded(played, [ReSeekIdeal()], [ReSeekReward(per_token=True)])
    (tokens,) = shaped.token_rewards_GT
    assert np.flatnonzero(tokens).tolist() == [len(played.rows[0]) - 1, played.n_tokens - 1]
    assert tokens[tokens != 0].tolist() == pytest.approx([0.3, 0.3])
    assert shaped.rewards_G.tolist() == pytest.approx([1.0])


async def test_who_does_not_judge_or_answers_after_no_is_told(stage: Any) -> None:
    """The refused No was wrong about good evidence (-0.3), the Yes after it right (+0.3), EM 1."""
    played = await stage.play(judging, stage.dogs, REX, BOB, NO + BOB, YES + BOB)
    told = [m.content for m in played.messages if m.role == "tool"]
    assert told[1:] == [JUDGE_FIRST, SEARCH_AGAIN]
    assert len(played.rows) == 1
    shaped = await stage.rewarded(played, [ReSeekIdeal()], [ReSeekReward()])
    assert shaped.rewards_G.tolist() == pytest.approx([1 - 0.3 + 0.3])


async def test_a_search_that_does_not_judge_is_not_run(stage: Any) -> None:
    """The ledger holds the two searches that were run; the unjudged one between them was not."""
    played = await stage.play(judging, stage.dogs, CAROL, REX, NO + REX, YES + BOB)
    assert [call.turn for call in played.calls] == [0, 2]
    assert played.messages[5].content == JUDGE_FIRST
    shaped = await stage.rewarded(played, [ReSeekIdeal()], [ReSeekReward()])
    assert shaped.rewards_G.tolist() == pytest.approx([1 + 0.3 + 0.3])


async def test_a_search_that_failed_leaves_nothing_to_judge() -> None:
    env = ReSeek(top_k=1, max_calls=1)
    task = Task("f", "Who", "Bob", {"passages": [{"title": "Rex", "text": "fed by Bob"}]})
    await env.open(Context())
    await env.reset(task, seed=0)
    protocol = SearchR1()
    await env.step(protocol.parse(ids_array(()), REX, turn=0))
    late = await env.step(protocol.parse(ids_array(()), YES + REX, turn=1))
    assert late.observation[0].content == "No calls left: answer now."
    assert (await env.step(protocol.parse(ids_array(()), BOB, turn=2))).reward == 1.0


def test_how_often_it_misses_is_a_probability() -> None:
    with pytest.raises(UserError, match=r"env\.missed"):
        ReSeek(missed=1.5)


async def test_what_followed_rejected_evidence_is_forgotten_with_it(stage: Any) -> None:
    await stage.play(judging, stage.dogs, CAROL, BOB, NO + "hm", NO + REX, YES + BOB)
    last = stage.text(stage.engine.rows[-1])
    assert (JUDGE_FIRST in last, "Carol met Ada" in last, "Rex is fed by Bob" in last) == (
        False, False, True,
    )  # fmt: skip


async def test_the_last_turn_must_answer_properly() -> None:
    env, protocol = ReSeek(top_k=1, max_searches=1), SearchR1()
    task = Task("f", "Who", "Bob", {"passages": [{"title": "Rex", "text": "fed by Bob"}]})
    for last, reward, truncated in ((YES + BOB, 1.0, False), (BOB, 0.0, True), (REX, 0.0, True)):
        await env.open(Context())
        await env.reset(task, seed=0)
        await env.step(protocol.parse(ids_array(()), REX, turn=0))
        step = await env.step(protocol.parse(ids_array(()), last, turn=1))
        assert (step.reward, step.truncated) == (reward, truncated)


def test_misses_repeat_and_never_follow_one_another() -> None:
    """At share s a search misses with probability s / (1 + s) in the long run: 0.5 gives a third."""
    missed = [misses(Task(f"t{i}", "?"), n, 0.5) for i in range(300) for n in range(10)]
    assert missed == [misses(Task(f"t{i}", "?"), n, 0.5) for i in range(300) for n in range(10)]
    pairs = pairwise(missed)
    assert not any(a and b for i, (a, b) in enumerate(pairs) if i % 10 != 9)
    assert sum(missed) / len(missed) == pytest.approx(1 / 3, abs=0.04)
    assert not any(misses(Task("t", "?"), n, 0.0) for n in range(10))


async def test_a_miss_shows_no_page_and_the_expert_sees_it(stage: Any) -> None:
    """Every episode of the expert ends right; what it rejects holds no page that is needed."""

    def env() -> ReSeek:
        return ReSeek(style="terse", people=60, missed=0.9)

    for task in islice(env().tasks("train", seed=0), 6):
        played = await stage.play(env, task, *env().expert(task, seed=0))
        labels = await ReSeekIdeal()(played, None)  # type: ignore[arg-type]
        said = [verdict(m.content) for m in played.messages if m.role == "assistant"]
        assert [labels[f"reseek/ideal/{k}"] for k in range(len(said) - 1)] == said[1:]
        assert False in said
        assert len(played.rows) == 1 + said.count(False)
        shaped = await stage.rewarded(played, [ReSeekIdeal()], [ReSeekReward()])
        assert shaped.rewards_G.tolist() == pytest.approx([1 + 0.3 * (len(said) - 1)])


def test_support_is_a_page_that_the_question_needs() -> None:
    way = Task("t", "?", "C", {"path": ["A", "B", "C"]})
    assert supports(way, "A: home B")
    assert supports(way, 'Doc 1(Title: "X") x\nDoc 2(Title: "B") B is ...')
    assert not supports(way, "n3: A met B\nC: home A")
    assert supports(Task("t", "?", "Bob"), "Rex is fed by Bob.")
    assert not supports(Task("t", "?", "Bob"), "Rex is fed.")
