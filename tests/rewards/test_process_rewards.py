"""Rewards from judged thinking, votes and noise: Trust, P-GRPO, CAPO, RPR, noise, TTRL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from agentrl.algo.advantage import Outcome
from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx
from agentrl.rewards.base import summed
from agentrl.rewards.capo import CapoTokens, read_list, steps_of, wrong_steps
from agentrl.rewards.noise import Noise
from agentrl.rewards.posterior import Posterior
from agentrl.rewards.rpr import PHRASES, Rpr, score, value
from agentrl.rewards.texts import char_ends
from agentrl.rewards.trust import Trust
from agentrl.rewards.ttrl import Ttrl, majority
from agentrl.trajectory import Group, Trajectory
from agentrl.transcript import ids_array

Member = Callable[..., Trajectory]
Groups = Callable[..., Group]
HISTORY = HistoryStore()


def shaped_by(shaper: object, group: Group, ctx: Ctx) -> list[float]:
    return shaper(group, summed(group), HISTORY, ctx).rewards_G.tolist()  # type: ignore[operator]


def thoughts(
    member: Member, group: Groups, outcomes: Sequence[float], grades: Sequence[float]
) -> Group:
    pairs = enumerate(zip(outcomes, grades, strict=True))
    return group(*(member(i, o, rewards={"judge/thinking": g}) for i, (o, g) in pairs))


def test_trust_by_hand(member: Member, group: Groups, ctx: Ctx):
    """mu_c .5 < mu_w .8: gamma = exp(-.3) = .74082."""
    four = thoughts(member, group, [1, 1, 0, 0], [0.4, 0.6, 0.9, 0.7])
    got = shaped_by(Trust(), four, ctx)
    assert got == pytest.approx([1.0889, 1.13335, 0.20002, 0.15557], abs=1e-4)


def test_trust_is_full_when_right_answers_think_better_and_fades(member: Member, group: Groups):
    four = thoughts(member, group, [1, 1, 0, 0], [0.9, 0.7, 0.4, 0.6])
    start = shaped_by(Trust(), four, Ctx(0, 1, 0))
    assert start == pytest.approx([1.27, 1.21, 0.12, 0.18])
    later = shaped_by(Trust(decay_steps=10), four, Ctx(10, 100, 0))
    assert later == pytest.approx([1 + 0.27 / np.e, 1 + 0.21 / np.e, 0.12 / np.e, 0.18 / np.e])
    assert shaped_by(Trust(decay_steps=None), four, Ctx(99, 100, 0)) == pytest.approx(start)


def test_trust_as_released_zeroes_wrong_answers(member: Member, group: Groups, ctx: Ctx):
    code = Trust(zero_on_wrong=True)
    mixed = thoughts(member, group, [1, 1, 0, 0], [0.4, 0.6, 0.9, 0.7])
    assert shaped_by(code, mixed, ctx) == pytest.approx([1.12, 1.18, 0, 0])
    right = thoughts(member, group, [1, 1], [0.4, 0.6])
    assert shaped_by(code, right, ctx) == [1, 1]
    assert shaped_by(Trust(), right, ctx) == pytest.approx([1.12, 1.18])


def test_a_missing_grade_is_not_a_grade_of_zero(member: Member, group: Groups, ctx: Ctx):
    with pytest.raises(UserError, match="judge/thinking"):
        shaped_by(Trust(), group(member(0, 1.0)), ctx)


def test_posterior_by_hand(member: Member, group: Groups, ctx: Ctx):
    """(format, outcome, think) = (1, 1, .6) -> 2.6; (1, 0, .9) -> 1; (0, 0, .9) -> 0."""
    rows = [(1.0, 1.0, 0.6), (1.0, 0.0, 0.9), (0.0, 0.0, 0.9)]
    three = group(
        *(
            member(i, o, rewards={"format": f, "judge/thinking": t})
            for i, (f, o, t) in enumerate(rows)
        )
    )
    assert shaped_by(Posterior(), three, ctx) == pytest.approx([2.6, 1, 0])


def test_a_summed_thinking_reward_is_replaced_not_doubled(member: Member, group: Groups, ctx: Ctx):
    two = group(member(0, 1.0, rewards={"think": 0.6}), member(1, 0.0, rewards={"think": 0.6}))
    assert shaped_by(Posterior(thinking="think"), two, ctx) == pytest.approx([1.6, 0.0], abs=1e-6)
    assert shaped_by(Trust(thinking="think"), two, ctx) == pytest.approx([1.18, 0.18], abs=1e-6)


@pytest.mark.parametrize("text", ["plain text", "a\n\nb", "naïve 東京 \U0001f600 end", "", " x"])
def test_characters_are_counted_as_whole_prefixes_decode(tokenizer, text: str):  # type: ignore[no-untyped-def]
    """Against decoding every prefix: equal wherever the prefix ends between code points."""
    ids = ids_array(tokenizer.encode(text))
    ends = char_ends(tokenizer, ids)
    assert (np.diff(ends) >= 0).all()
    for k in range(len(ids)):
        prefix = tokenizer.decode(ids[: k + 1])
        if "\ufffd" not in prefix:
            assert ends[k] == len(prefix)


def solution(member: Member, tokenizer, texts: Sequence[str], env: float, **rewards: float):  # type: ignore[no-untyped-def]
    return member(
        0, env, rewards=rewards, turns=texts, turn_ids=[tokenizer.encode(t) for t in texts]
    )


def test_capo_table(member: Member, group: Groups, ctx: Ctx, tokenizer):  # type: ignore[no-untyped-def]
    """Right: 2 on clean tokens, 1 on the flawed step; wrong: 0 and -1."""
    text = "one\n\ntwo is wrong\n\nthree"
    for env, clean, flawed in ((1.0, 2, 1), (0.0, 0, -1)):
        marks = {"capo/steps": 3.0, "capo/wrong/1": 1.0}
        one = solution(member, tokenizer, [text], env, **marks)
        shaped = CapoTokens(tokenizer=tokenizer)(group(one), summed(group(one)), HISTORY, ctx)
        assert shaped.token_rewards_GT is not None
        total = shaped.rewards_G[0] + shaped.token_rewards_GT[0]
        steps = steps_of(one, tokenizer)
        assert [s.text for s in steps] == ["one", "two is wrong", "three"]
        assert {*total[steps[0].tokens].tolist(), *total[steps[2].tokens].tolist()} == {clean}
        assert set(total[steps[1].tokens].tolist()) == {flawed}
        row = one.rows[0]
        inside = tokenizer.decode(row.token_ids[steps[1].tokens])
        assert inside.strip() == "two is wrong"


def test_capo_steps_cover_every_sampled_token_and_no_other(member: Member, tokenizer):  # type: ignore[no-untyped-def]
    """Two turns with an observation between them; blank lines belong to the step before."""
    one = solution(member, tokenizer, ["a b\n\nc\n\n", "d\n \ne"], 1.0)
    covered = np.zeros(one.n_tokens, bool)
    for step in steps_of(one, tokenizer):
        assert not covered[step.tokens].any()
        covered[step.tokens] = True
    assert (covered == one.rows[0].mask).all()


@pytest.mark.parametrize(
    ("vote", "expected"), [("intersection", [1]), ("majority", [1, 2]), ("union", [0, 1, 2])]
)
def test_capo_votes(vote: str, expected: list[int]):
    critiques = [[1, 2], [1, 2], [1, 2, 9], [0, 1]]
    assert wrong_steps(critiques, 3, vote) == expected  # type: ignore[arg-type]
    assert wrong_steps([], 3, vote) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reply", "found"), [("Steps [0, 3].", [0, 3]), ("none: []", []), ("I do not know", None)]
)
def test_capo_reads_lists(reply: str, found: list[int] | None):
    assert read_list(reply) == found


def test_capo_needs_the_outcome_to_weigh_more(tokenizer):  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match="outcome > penalty"):
        CapoTokens(tokenizer=tokenizer, outcome=1.0, penalty=1.0)


def test_rpr_value_and_calibration(member: Member, group: Groups, ctx: Ctx):
    """12 hits, rep .1 -> .5; rm .3 -> .35; rm .6 stays; rm .49 with RPR 1 -> .59."""
    assert value(12, 0.1, 0) == pytest.approx(0.5)
    assert value(30, 0.0, 0) == 1.0
    assert value(5, 0.0, 1) == 0.0
    rows = [(0.3, 0.5), (0.6, 0.5), (0.49, 1.0)]
    three = group(*(member(i, rm, rewards={"rpr/score": s}) for i, (rm, s) in enumerate(rows)))
    assert shaped_by(Rpr(), three, ctx) == pytest.approx([0.35, 0.6, 0.59])


def test_rpr_counts_distinct_phrases():
    twelve = " ".join(PHRASES[:12])
    assert score(twelve) >= 0.6
    assert score(twelve + " " + PHRASES[0]) == pytest.approx(score(twelve))
    assert score(" ".join(["same words again"] * 60)) == 0.0
    assert score("no reasoning user: user: ") == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_a_flipped_group_has_exactly_the_negated_advantages(
    member: Member, group: Groups, seed: int
):
    import torch

    four = group(*(member(i, float(i % 3 == 0)) for i in range(4)))
    ctx = Ctx(step=seed, total_steps=9, seed=seed)

    def advantages(shaper: Noise) -> list[float]:
        rewards = torch.tensor(shaped_by(shaper, four, ctx), dtype=torch.float64)
        groups = torch.zeros(4, dtype=torch.int64)
        return Outcome().scalars(rewards, groups, torch.ones(4, dtype=torch.float64)).tolist()

    assert advantages(Noise(p=1.0)) == [-a for a in advantages(Noise(p=0.0))]


def test_noise_flips_whole_groups_or_samples_at_its_rate(member: Member, group: Groups):
    four = group(*(member(i, 1.0) for i in range(4)))
    by_group = [shaped_by(Noise(p=0.4), four, Ctx(s, 999, 7)) for s in range(400)]
    assert all(len(set(rewards)) == 1 for rewards in by_group)
    assert sum(rewards[0] == 0 for rewards in by_group) / 400 == pytest.approx(0.4, abs=0.08)
    by_sample = [shaped_by(Noise(p=0.4, per="sample"), four, Ctx(s, 999, 7)) for s in range(100)]
    flips = [r == 0 for rewards in by_sample for r in rewards]
    assert sum(flips) / 400 == pytest.approx(0.4, abs=0.08)
    assert any(len(set(rewards)) == 2 for rewards in by_sample)


def test_noise_depends_on_seed_and_step_alone(member: Member, group: Groups):
    four = group(*(member(i, float(i % 2)) for i in range(4)))
    noise = Noise(p=0.5, per="sample")
    runs = [[shaped_by(noise, four, Ctx(s, 9, seed)) for s in range(20)] for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def votes(member: Member, group: Groups, answers: Sequence[str | None]) -> Group:
    return group(*(member(i, 0.0, answer=a) for i, a in enumerate(answers)))


def test_ttrl_majority(member: Member, group: Groups, ctx: Ctx):
    five = votes(member, group, ["7", "7", "3", "7", "5"])
    assert shaped_by(Ttrl(), five, ctx) == [1, 1, 0, 1, 0]


def test_ttrl_ties_and_missing_answers(member: Member, group: Groups, ctx: Ctx):
    """A tie goes to the first seen; three Nones beat nobody."""
    tie = votes(member, group, ["3", "7", "7", "3"])
    assert shaped_by(Ttrl(), tie, ctx) == [1, 0, 0, 1]
    nones = votes(member, group, [None, None, None, "5"])
    assert shaped_by(Ttrl(), nones, ctx) == [0, 0, 0, 1]
    assert shaped_by(Ttrl(), votes(member, group, [None, None]), ctx) == [0, 0]
    assert majority([]) is None


def test_ttrl_never_reads_the_gold(member: Member, group: Groups, ctx: Ctx):
    three = votes(member, group, ["7", "7", "42"])
    told = replace(
        three,
        trajectories=tuple(
            replace(t, rewards={"env": float(t.answer == "42")}) for t in three.trajectories
        ),
    )
    assert shaped_by(Ttrl(), told, ctx) == shaped_by(Ttrl(), three, ctx) == [1, 1, 0]


def test_ttrl_votes_in_sibling_order(member: Member, group: Groups, ctx: Ctx):
    members = list(votes(member, group, ["3", "7", "7", "3"]).trajectories)
    Random(1).shuffle(members)
    got = dict(
        zip([m.sibling for m in members], shaped_by(Ttrl(), group(*members), ctx), strict=True)
    )
    assert got == {0: 1, 1: 0, 2: 0, 3: 1}


def test_ttrl_may_read_answers_as_text(member: Member, group: Groups, ctx: Ctx):
    three = votes(member, group, ["The Beatles!", "beatles", "Queen"])
    assert shaped_by(Ttrl(same="text"), three, ctx) == [1, 1, 0]
    assert shaped_by(Ttrl(), three, ctx) == [1, 0, 0]
