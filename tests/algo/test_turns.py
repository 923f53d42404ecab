"""Turns from origins, and the two estimators that read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from agentrl.algo.advantage import GRPO, PRESETS, Outcome
from agentrl.algo.gigpo import GiGPO
from agentrl.algo.mt_grpo import MTGRPO
from agentrl.algo.turns import Turns
from agentrl.algo.types import Batch
from agentrl.errors import UserError
from agentrl.points import Ctx
from agentrl.transcript import Origin

CTX = Ctx(step=0, total_steps=1, seed=0)
CENTRED = Outcome(scale="none")
Make = Callable[..., Batch]
KINDS = {"p": Origin.PROMPT, "m": Origin.MODEL, "f": Origin.FORCED, "o": Origin.OBSERVATION}
KINDS |= {"s": Origin.SCAFFOLD}


@pytest.fixture
def told(make: Make, recount: Make) -> Make:
    """Batches from strings such as "pmmoom": one letter a token, "." for padding."""

    def build(
        rows: list[str],
        rewards: list[float],
        trajectories: list[int] | None = None,
        groups: list[int] | None = None,
        token_rewards: list[list[float]] | None = None,
    ) -> Batch:
        width = max(map(len, rows))
        lengths = [len(row) - 1 for row in rows]
        batch = make(rewards, groups or [0] * len(rows), lengths, trajectories)
        kinds = [[int(KINDS.get(c, Origin.PROMPT)) for c in row.ljust(width, ".")] for row in rows]
        origins = torch.tensor(kinds, dtype=torch.int8)
        mask = (origins == int(Origin.MODEL)) | (origins == int(Origin.FORCED))
        batch = recount(replace(batch, origins=origins, mask=mask))
        if token_rewards is None:
            return batch
        padded = [[*row, *[0.0] * (width - len(row))] for row in token_rewards]
        return replace(batch, token_rewards=torch.tensor(padded))

    return build


def test_turns_follow_the_observations(told: Make) -> None:
    """Glue and a closer (s) split nothing; a forced start (f) belongs to its turn."""
    batch = told(["pmmsmoosfmm", "pom", "pmom"], [0, 0, 0], trajectories=[0, 1, 0])
    turns = Turns.of_batch(batch)
    assert turns.of.tolist() == [
        [-1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1],
        [-1, -1, 2, 2, 2, 2, 2, 2, 2, 2, 2],
        [-1, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4],
    ]
    assert turns.rows.tolist() == [0, 0, 1, 2, 2]
    assert turns.starts.tolist() == [1, 8, 2, 1, 3]
    assert turns.trajectories.tolist() == [0, 0, 1, 0, 0]
    assert turns.positions.tolist() == [0, 1, 0, 2, 3]
    assert turns.last.tolist() == [False, False, True, False, True]


def test_excluded_trajectories_have_turns(told: Make) -> None:
    batch = told(["pmom", "pm"], [1, 0])
    batch = replace(batch, mask=torch.zeros_like(batch.mask), n_tokens=0, n_sequences=0)
    assert len(Turns.of_batch(batch)) == 3
    bare = replace(batch, origins=torch.where(batch.origins == 0, 1, batch.origins))
    assert Turns.of_batch(bare).starts.tolist() == [0, 3, 0]


def test_mt_grpo_with_two_turns(told: Make) -> None:
    """Turn rewards [.3, .1], outcomes [0, 1], no deviations: A_turn = +-.1, A_outcome = -+.5.

    The search turns get .1 - .5 and -.1 + .5, the answers the outcome's -.5 and .5 alone. The
    tool's answer pays the first row's turn; what the answers earn by token is not read.
    """
    batch = told(
        ["pmmom", "pmomm"],
        [0, 1],
        token_rewards=[[0, 0.1, 0, 0.2, 0.7], [0, 0.1, 0, 0, 0.9]],
    )
    got = MTGRPO(base=CENTRED)(batch, CTX)
    expected = torch.tensor([[0, -0.4, -0.4, 0, -0.5], [0, 0.4, 0, 0.5, 0.5]])
    torch.testing.assert_close(got, expected)
    half = MTGRPO(outcome=0.5, base=CENTRED)(batch, CTX)
    assert half[:, 1].tolist() == pytest.approx([0.1 - 0.25, -0.1 + 0.25])
    double = MTGRPO(turn=2.0, base=CENTRED)(batch, CTX)
    assert double[:, 1].tolist() == pytest.approx([0.2 - 0.5, -0.2 + 0.5])


def test_mt_grpo_compares_turns_at_one_position(told: Make) -> None:
    """Three turns: the second is compared with second ones only, a lone one with nobody's.

    Second turns earn [.4, .2, -] -> +-.1 around .3; the third turn of row 0 is its last.
    """
    batch = told(
        ["pmomom", "pmomom", "pm"],
        [0.5, 0.5, 0.5],
        token_rewards=[[0, 0.1, 0, 0.4, 0, 5], [0, 0.1, 0, 0.2, 0, 0], [0, 0.1]],
    )
    got = MTGRPO(base=CENTRED)(batch, CTX)
    expected = torch.zeros_like(got)
    expected[0, 3], expected[1, 3] = 0.1, -0.1
    torch.testing.assert_close(got, expected)
    lone = told(["pmom", "pm"], [0, 0], token_rewards=[[0, 0.7, 0, 0], [0, 0]])
    assert MTGRPO(base=CENTRED)(lone, CTX)[0, 1].item() == pytest.approx(0.35)
    one_longer = told(["pmomom", "pmom"], [0, 0], token_rewards=[[0, 0, 0, 0.7], [0, 0, 0, 0]])
    assert MTGRPO(base=CENTRED)(one_longer, CTX)[0, 3].item() == pytest.approx(0.35)
    beyond = told(["pmomomom", "pmom"], [0, 0], token_rewards=[[0, 0, 0, 0, 0, 0.7], [0] * 4])
    assert MTGRPO(base=CENTRED)(beyond, CTX).abs().sum() == 0


def test_mt_grpo_normalises_turns_as_its_base(told: Make) -> None:
    """Turn rewards [1, 0, 0, 1]: +-.86602 by the sample deviation; equal outcomes add nothing."""
    rewards = [[0, value, 0, 0] for value in (1.0, 0.0, 0.0, 1.0)]
    batch = told(["pmom"] * 4, [0.3] * 4, token_rewards=rewards)
    got = MTGRPO()(batch, CTX)
    first = [0.86602, -0.86602, -0.86602, 0.86602]
    assert got[:, 1].tolist() == pytest.approx(first, abs=1e-4)
    assert got[:, 3].tolist() == [0, 0, 0, 0]


def test_without_turn_rewards_it_is_grpo(told: Make) -> None:
    batch = told(["pmom", "pmm", "pmomom", "pm"], [1, 0, 0.5, 0])
    assert torch.equal(MTGRPO()(batch, CTX), GRPO(batch, CTX))
    paid = replace(batch, token_rewards=torch.rand(batch.mask.shape))
    assert torch.equal(MTGRPO(turn=0)(paid, CTX), GRPO(batch, CTX))


def states(batch: Batch, ids: list[list[int]]) -> Batch:
    width = batch.token_ids.shape[1]
    return replace(
        batch, token_ids=torch.tensor([[*row, *[0] * (width - len(row))] for row in ids])
    )


def test_gigpo_by_hand(told: Make) -> None:
    """Both answer the same prompt; the observations 7 of row 0's and row 1's second turns agree.

    gamma .5, outcomes 1 and 0, row 0's first turn earns .2: returns .2 + .5 * 1 = .7 and 1; 0 and 0.
    A_episode: 1.2 and 0 -> +-.6. A_step: the prompt's [.7, 0] -> +-.35, state 7's [1, 0] -> +-.5.
    """
    batch = told(["pmom", "pmom"], [1, 0], token_rewards=[[0, 0.2], [0]])
    batch = states(batch, [[5, 1, 7, 2], [5, 3, 7, 4]])
    got = GiGPO(gamma=0.5, base=CENTRED)(batch, CTX)
    torch.testing.assert_close(got, torch.tensor([[0, 0.95, 0, 1.1], [0, -0.95, 0, -1.1]]))
    half = GiGPO(weight=0.5, gamma=0.5, base=CENTRED)(batch, CTX)
    assert half[0].tolist() == pytest.approx([0, 0.775, 0, 0.85])


def test_gigpo_states_seen_once_and_states_revisited(told: Make) -> None:
    """Row 0 comes back to state 7 and row 1 sees 8: the group of 7 is row 0's own two turns.

    gamma .5, outcome 1 at the end of three turns: returns .25, .5, 1; 7's group [.5, 1] -> -+.25.
    Row 1's outcome 0: returns 0, 0; the prompt's group [.25, 0] -> +-.125; 8 is seen once.
    """
    batch = told(["pmomom", "pmom"], [1, 0])
    batch = states(batch, [[5, 1, 7, 2, 7, 3], [5, 1, 8, 2]])
    got = GiGPO(gamma=0.5, base=Outcome(center="none", scale="none"))(batch, CTX)
    expected = torch.tensor([[0, 1.125, 0, 0.75, 0, 1.25], [0, -0.125, 0, 0, 0, 0]])
    torch.testing.assert_close(got, expected)


def test_gigpo_anchors_are_observations_inside_one_group(told: Make) -> None:
    """What the policy wrote and the template's glue are no part of the state; another task is."""
    rows = ["pmosm", "pmmom"]
    one = told(rows, [1, 0])
    one = states(one, [[5, 1, 7, 9, 2], [5, 3, 4, 7, 2]])
    second = GiGPO(gamma=1.0, base=CENTRED)(one, CTX)[:, 4].tolist()
    assert second == pytest.approx([1.0, -1.0])
    apart = replace(one, group_index=torch.tensor([0, 1]))
    assert GiGPO(base=CENTRED)(apart, CTX)[:, 4].tolist() == [1.0, 0.0]


def test_gigpo_anchors_of_later_rows_are_their_prompts(told: Make) -> None:
    """Both trajectories go on in a context of their own: 6 for one and 8 for the other, or both 6."""
    rows = ["pm", "pm", "pm", "pm"]
    batch = told(rows, [1, 1, 0, 0], trajectories=[0, 0, 1, 1])
    plain = Outcome(center="none", scale="none")
    apart = states(batch, [[5, 1], [6, 2], [5, 3], [8, 4]])
    assert GiGPO(gamma=1.0, base=plain)(apart, CTX)[:, 1].tolist() == [1.5, 1, -0.5, 0]
    same = states(batch, [[5, 1], [6, 2], [5, 3], [6, 4]])
    assert GiGPO(gamma=1.0, base=plain)(same, CTX)[:, 1].tolist() == [1.5, 1.5, -0.5, -0.5]


def test_gigpo_reduces_to_grpo(told: Make) -> None:
    batch = told(["pmom", "pmm", "pmomom", "pm"], [1, 0, 0.5, 0])
    assert torch.equal(GiGPO(weight=0)(batch, CTX), GRPO(batch, CTX))
    one_turn = told(["pm", "pmm", "pmm", "pm"], [1, 0, 0.5, 0])
    doubled = GiGPO(base=PRESETS["dr_grpo"])(one_turn, CTX)
    torch.testing.assert_close(doubled, 2 * PRESETS["dr_grpo"](one_turn, CTX))
    with pytest.raises(UserError, match="gamma lies in"):
        GiGPO(gamma=2)
