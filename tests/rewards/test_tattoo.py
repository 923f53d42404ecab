"""TaTToo's step reward: its numbers by hand, labels found in tokens, grounding, credit per step."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from agentrl.chat.base import Tokenizer
from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Services
from agentrl.rewards.base import summed
from agentrl.rewards.tattoo import (
    Tattoo,
    TattooTokens,
    labels_of,
    solution_score,
    step_reward,
    supported,
)
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript, floats_array, ids_array
from agentrl.types import Message, Task

Groups = Callable[..., Group]
NOTHING = Services(episodes=None)  # type: ignore[arg-type]


def test_the_step_reward_by_hand() -> None:
    """lc .1, lt .5: right, P .8, grounded: 1 - .0223 + .5; wrong, P .2, not: -.1609."""
    weights = {"confidence": 0.1, "grounding": 0.5}
    assert step_reward(match=True, probability=0.8, support=True, **weights) == pytest.approx(
        1.4777, abs=1e-4
    )
    assert step_reward(match=False, probability=0.2, support=False, **weights) == pytest.approx(
        -0.1609, abs=1e-4
    )


def test_the_score_of_a_solution() -> None:
    assert solution_score([1, -1, 1, 1]) == 0.5
    assert solution_score([]) == 0.0


@pytest.mark.parametrize(
    ("rationale", "seen", "verdict"),
    [
        ("The table says 1,200.", "1200", True),
        ("It says 36.5, as claimed.", "Ada: 36.5", True),
        ("Step 3: this is fine", "3 rows", False),
        ("Looks right to me.", "36", False),
        ("Vel has the most.", "Vel", True),
        ("Mirk has the most.", "Vel", False),
        ("Vel has it", "Vel (1200)", False),  # there is a number, and it is not used
        ("anything 5", "", False),
    ],
)
def test_grounding(rationale: str, seen: str, verdict: bool) -> None:
    assert supported(rationale, seen) is verdict


def verifier(
    tokenizer: Tokenizer, turns: list[str], observations: list[str], gold: object, p: float
) -> Trajectory:
    """A trajectory whose label digits were sampled with probability `p`, everything else surely."""
    row = Transcript().append(Segment(Origin.PROMPT, ids_array(tokenizer.encode("Check 77."))))
    messages = [Message("user", "Check 77.")]
    for i, text in enumerate(turns):
        ids = tokenizer.encode(text)
        logprobs = np.zeros(len(ids))
        for opening in re.finditer(r"<label>\s*", text):
            # The sign carries the choice; the nano vocabulary spells labels byte by byte.
            logprobs[len(tokenizer.encode(text[: opening.end()]))] = math.log(p)
        made = Segment(Origin.MODEL, ids_array(ids), floats_array(logprobs), version=0)
        row = row.append(made)
        messages.append(Message("assistant", text))
        if i < len(observations):
            seen = ids_array(tokenizer.encode(observations[i]))
            row = row.append(Segment(Origin.OBSERVATION, seen))
            messages.append(Message("tool", observations[i]))
    task = Task("t", "?", metadata={"labels": gold})  # type: ignore[dict-item]
    return Trajectory(
        "0/t/0", task, 0, (row,), tuple(messages), StopReason.TERMINATED,
        rewards={"env": 0.0}, n_turns=len(turns),
    )  # fmt: skip


TURNS = [
    "I look it up.",
    "Step 1: it is 36. <label>+1</label>\nStep 2: no idea. <label> -1 </label>",
]


async def test_a_trajectory_by_hand(tokenizer: Tokenizer) -> None:
    """Label 1 right and grounded: 1 + .1 ln .8 + .5; label 2 wrong: R(right) = .2, .1 ln .2."""
    trajectory = verifier(tokenizer, TURNS, ["36"], [1, 1], 0.8)
    first, second = labels_of(trajectory, tokenizer)
    assert (first.said, second.said) == (1, -1)
    assert (first.probability, second.probability) == pytest.approx((0.8, 0.8))
    assert first.rationale == "I look it up.\nStep 1: it is 36. "
    assert (first.seen, second.rationale.strip()) == ("36", "Step 2: no idea.")
    scores = await Tattoo(tokenizer=tokenizer)(trajectory, NOTHING)
    steps = [1 + 0.1 * math.log(0.8) + 0.5, 0.1 * math.log(0.2)]
    assert scores["tattoo/step/0"] == pytest.approx(steps[0], abs=1e-5)
    assert scores["tattoo/step/1"] == pytest.approx(steps[1], abs=1e-5)
    assert scores["tattoo"] == pytest.approx(sum(steps) / 2, abs=1e-5)
    assert (scores["tattoo/accuracy"], scores["tattoo/support"]) == (0.5, 0.5)
    assert scores["tattoo/score"] == 0.0


async def test_missing_labels_are_the_worst_and_further_ones_count_for_nothing(
    tokenizer: Tokenizer,
) -> None:
    reward = Tattoo(tokenizer=tokenizer, grounding=0.0)
    silent = await reward(verifier(tokenizer, ["I do not know."], [], [1, -1], 0.5), NOTHING)
    assert silent["tattoo"] == pytest.approx(0.1 * math.log(0.01))
    many = verifier(tokenizer, ["<label>+1</label>" * 9], [], [1], 0.5)
    assert (await reward(many, NOTHING))["tattoo"] == pytest.approx(1 + 0.1 * math.log(0.5))
    sure = verifier(tokenizer, ["<label>-1</label>"], [], [1], 1.0)
    assert (await reward(sure, NOTHING))["tattoo"] == pytest.approx(0.1 * math.log(0.01))


async def test_other_numbers_in_the_table_change_the_reward(tokenizer: Tokenizer) -> None:
    """The paper's test of a verifier: with a random sub-table the same words are not grounded."""
    reward = Tattoo(tokenizer=tokenizer)
    mine = await reward(verifier(tokenizer, TURNS, ["36"], [1, -1], 0.9), NOTHING)
    other = await reward(verifier(tokenizer, TURNS, ["99"], [1, -1], 0.9), NOTHING)
    assert mine["tattoo"] - other["tattoo"] == pytest.approx(0.25)


async def test_credit_lies_on_the_labels(tokenizer: Tokenizer, group: Groups, ctx: Ctx) -> None:
    made = [verifier(tokenizer, TURNS, ["36"], gold, 0.8) for gold in ([1, -1], [1, -1, 1])]
    scored: list[Trajectory] = []
    for trajectory in made:
        scores = await Tattoo(tokenizer=tokenizer)(trajectory, NOTHING)
        scored.append(_with(trajectory, scores))
    whole = group(*scored)
    shaped = TattooTokens(tokenizer=tokenizer)(whole, summed(whole), HistoryStore(), ctx)
    assert shaped.rewards_G.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert shaped.token_rewards_GT is not None
    for trajectory, rewards in zip(scored, shaped.token_rewards_GT, strict=True):
        assert float(rewards.sum()) == pytest.approx(trajectory.rewards["tattoo"], abs=1e-5)
        n = len(trajectory.task.metadata["labels"])  # type: ignore[arg-type]
        ids = trajectory.rows[0].token_ids
        paid = np.flatnonzero(rewards).tolist()
        assert [tokenizer.decode(ids[i - 1 : i + 1]) for i in paid[:2]] == ["+1", "-1"]
        assert rewards[paid[0]] == pytest.approx(trajectory.rewards["tattoo/step/0"] / n)
        assert len(paid) == n
    bare = group(made[0])
    with pytest.raises(UserError, match="reads the reward component 'tattoo'"):
        TattooTokens(tokenizer=tokenizer)(bare, summed(bare), HistoryStore(), ctx)


def _with(trajectory: Trajectory, scores: object) -> Trajectory:
    return replace(trajectory, rewards={**trajectory.rewards, **scores})  # type: ignore[dict-item]


@pytest.mark.parametrize("gold", [None, [], "11", [1, 0], [1, "x"]])
async def test_bad_gold_labels(tokenizer: Tokenizer, gold: object) -> None:
    with pytest.raises(UserError, match='metadata "labels"'):
        await Tattoo(tokenizer=tokenizer)(verifier(tokenizer, TURNS, ["1"], gold, 0.5), NOTHING)


def test_bad_options(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="confidence >= 0"):
        Tattoo(tokenizer=tokenizer, confidence=-1)
