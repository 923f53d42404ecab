"""RLPR and R3: the rows that are scored, and what their logprobs are worth."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import pytest

from agentrl.episode import EpisodeRunner
from agentrl.errors import DeadlineExceeded, UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, ScoredModel, Scorer, Services, needs_of
from agentrl.rewards.base import summed
from agentrl.rewards.likelihood import ReferenceScore
from agentrl.rewards.r3 import R3, R3Score, propagated, reflection_rewards
from agentrl.rewards.rlpr import Rlpr, RlprScore
from agentrl.trajectory import Group, Trajectory
from agentrl.transcript import Float32Array, floats_array
from agentrl.types import Task

Member = Callable[..., Trajectory]
Groups = Callable[..., Group]


class LengthScorer:
    """Logprob of token t is -(index t + 1) / 100: each row's place is visible in its scores."""

    def __init__(self, wait_s: float = 0.0) -> None:
        self.rows: list[list[int]] = []
        self.models: list[str] = []
        self.wait_s = wait_s

    async def logprobs(
        self, model: ScoredModel, rows: Sequence[Sequence[int]]
    ) -> list[Float32Array]:
        await asyncio.sleep(self.wait_s)
        self.models.append(model)
        self.rows += [list(row) for row in rows]
        return [floats_array(-(np.arange(len(row)) + 1) / 100) for row in rows]


def services(scorer: Scorer | None) -> Services:
    return Services(episodes=cast(EpisodeRunner, None), scorer=scorer)


def answered(member: Member, tokenizer, *texts: str, **options: object) -> Trajectory:  # type: ignore[no-untyped-def]
    return member(0, 1.0, turns=texts, turn_ids=[tokenizer.encode(t) for t in texts], **options)


@pytest.mark.parametrize(
    "text", ["think <answer>41</answer>", "<answer> 1</answer> no <answer>41</answer>", "x<answer>"]
)
async def test_the_reference_stands_where_the_answer_stood(member: Member, tokenizer, text: str):  # type: ignore[no-untyped-def]
    """Decoded, the scored row is the response up to the last tag and then the reference, 42."""
    trajectory = answered(member, tokenizer, text)
    scorer = LengthScorer()
    found = await ReferenceScore(tokenizer)(trajectory, services(scorer))
    bare, reasoned = scorer.rows
    head = text[: text.rfind("<answer>") + len("<answer>")]
    assert tokenizer.decode(reasoned[1:]) == head + "42"
    assert tokenizer.decode(bare[1:]) == "<answer>42"
    n = len(tokenizer.encode("42"))
    assert found.reasoned is not None
    assert found.reasoned.tolist() == pytest.approx(
        [-(len(reasoned) - n + j + 1) / 100 for j in range(n)]
    )
    assert found.bare.tolist() == pytest.approx([-(len(bare) - n + j + 1) / 100 for j in range(n)])
    assert scorer.models == ["policy"]


async def test_sampled_ids_before_the_answer_are_kept_as_they_are(member: Member, tokenizer):  # type: ignore[no-untyped-def]
    """Characters sampled one by one are not what the tokenizer would write."""
    text = "so <answer>41</answer>"
    ids = [i for c in text for i in tokenizer.encode(c)]
    trajectory = member(0, 1.0, turns=(text,), turn_ids=[ids])
    row = ReferenceScore(tokenizer).reasoned_row(trajectory)
    assert row is not None
    n_kept = len([i for c in "so <answer>" for i in tokenizer.encode(c)])
    assert row.token_ids[: 1 + n_kept] == [1, *ids[:n_kept]]


async def test_earlier_turns_are_part_of_the_reasoning(member: Member, tokenizer):  # type: ignore[no-untyped-def]
    """The answer is looked for from the last turn backwards; the observation stays in the row."""
    trajectory = answered(member, tokenizer, "call", "<answer>1</answer>")
    row = ReferenceScore(tokenizer, before="\n").reasoned_row(trajectory)
    assert row is not None
    assert 9 in row.token_ids
    assert tokenizer.decode(row.token_ids).endswith("<answer>\n42")
    assert row.n_reference == len(tokenizer.encode("42"))


async def test_rlpr_records_mean_probabilities(member: Member, tokenizer):  # type: ignore[no-untyped-def]
    trajectory = answered(member, tokenizer, "<answer>4</answer>")
    scorer = LengthScorer()
    scores = await RlprScore(tokenizer=tokenizer)(trajectory, services(scorer))
    n = len(tokenizer.encode("42"))
    for name, row in (("rlpr/base", scorer.rows[0]), ("rlpr/prob", scorer.rows[1])):
        places = range(len(row) - n + 1, len(row) + 1)
        assert scores[name] == pytest.approx(np.mean([np.exp(-p / 100) for p in places]))


async def test_rlpr_without_an_answer_has_probability_zero(member: Member, tokenizer):  # type: ignore[no-untyped-def]
    scores = await RlprScore(tokenizer=tokenizer)(
        answered(member, tokenizer, "no tag"), services(LengthScorer())
    )
    assert scores["rlpr/prob"] == 0.0
    assert scores["rlpr/base"] > 0


@pytest.mark.parametrize(
    ("debias", "expected"), [(True, [0.325, 0.225, 0.1]), (False, [0.775, 0.675, 0.37])]
)
def test_rlpr_reward(member: Member, group: Groups, ctx: Ctx, debias: bool, expected: list[float]):
    """probs .9 .6 and r0 .5: .75 - .5 = .25, .9 x .25 + .1 format = .325; r below r0 counts 0."""
    rows = [(0.75, 1.0), (0.75, 0.0), (0.3, 1.0)]
    three = group(
        *(
            member(i, 1.0, rewards={"rlpr/prob": p, "rlpr/base": 0.5, "format": f})
            for i, (p, f) in enumerate(rows)
        )
    )
    shaped = Rlpr(debias=debias)(three, summed(three), HistoryStore(), ctx)
    assert shaped.rewards_G.tolist() == pytest.approx(expected, abs=1e-6)


def test_r3_by_hand():
    """cot1 -1 -.1, cot2 -3 -.1, masked -2 -.1: w = [1, 0] and R3 = +1, -1."""
    logps = np.array([[-1.0, -0.1], [-3.0, -0.1]])
    masked = np.array([[-2.0, -0.1]] * 2)
    assert reflection_rewards(logps, masked).tolist() == pytest.approx([1, -1])


def test_r3_weights_tokens_by_their_spread():
    """sigma = 1 and .5, so w = 2/3, 1/3: row 1 gains 2/3 x 1 + 1/3 x .5."""
    logps = np.array([[-1.0, -1.0], [-3.0, -2.0]])
    masked = np.array([[-2.0, -1.5]] * 2)
    assert reflection_rewards(logps, masked).tolist() == pytest.approx([5 / 6, -5 / 6])
    alone = np.array([[-1.0, -2.0]])
    assert reflection_rewards(alone, alone - 0.5).tolist() == pytest.approx([0.5])


def test_r3_propagation():
    """p = 1 discounts nothing; p = 0 leaves 1 - exp(-gamma d)."""
    assert propagated(np.ones((1, 3)), 0.5).tolist() == [[1, 1, 1]]
    got = propagated(np.array([[0.0, 1.0, 1.0]]), 0.5)[0]
    assert got.tolist() == pytest.approx([1, 1 - np.exp(-0.5), 1 - np.exp(-1.0)])


async def test_r3_from_scorer_to_reward(member: Member, group: Groups, tokenizer, ctx: Ctx):  # type: ignore[no-untyped-def]
    """A longer reasoning puts the reference later: -.01 a token; the rewards differ by just that."""
    scored: list[Trajectory] = []
    for index, text in enumerate(("a<answer>4</answer>", "aaaa bbbb cccc")):
        trajectory = answered(member, tokenizer, text)
        own = await R3Score(tokenizer=tokenizer)(trajectory, services(LengthScorer()))
        scored.append(member(index, 1.0, rewards=own))
    rewards = R3()(group(*scored), summed(group(*scored)), HistoryStore(), ctx).rewards_G
    gaps = [t.rewards["r3/logp/0"] - t.rewards["r3/masked/0"] for t in scored]
    assert rewards.tolist() == pytest.approx(gaps, abs=1e-6)
    assert gaps[1] < gaps[0] < 0


def test_r3_length_term(member: Member, group: Groups, ctx: Ctx):
    """One reference token, three said, b = .1: 1 - .1 x 2 / 1 on top of R3."""
    scores = {"r3/logp/0": -1.0, "r3/masked/0": -2.0, "r3/answer_tokens": 3.0}
    one = group(member(0, 1.0, rewards=scores))
    shaped = R3(length=0.1)(one, summed(one), HistoryStore(), ctx)
    assert shaped.rewards_G.tolist() == pytest.approx([1.8])


async def test_what_cannot_be_scored_is_told(member: Member, tokenizer):  # type: ignore[no-untyped-def]
    score = ReferenceScore(tokenizer, deadline_s=0.05)
    with pytest.raises(UserError, match="scorer"):
        await score(answered(member, tokenizer, "x"), services(None))
    unanswerable = answered(member, tokenizer, "x", task=Task("t", "?"))
    with pytest.raises(UserError, match="no reference"):
        await score(unanswerable, services(LengthScorer()))
    with pytest.raises(DeadlineExceeded):
        await score(answered(member, tokenizer, "x"), services(LengthScorer(wait_s=5)))
    assert needs_of(RlprScore(tokenizer=tokenizer)) == {"scorer"}
    assert needs_of(R3Score(tokenizer=tokenizer)) == {"scorer"}
