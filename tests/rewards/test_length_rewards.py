"""Rewards that read lengths: HAPO, LASER, LASER-D, AdaptThink, AdaCtrl, CAMPO, RLSP, Kimi."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from agentrl.errors import UserError
from agentrl.history import HistoryStore, Write
from agentrl.points import Ctx
from agentrl.rewards.adactrl import AdaCtrl, tag_of
from agentrl.rewards.adaptthink import AdaptThink, no_thinking
from agentrl.rewards.base import length, summed
from agentrl.rewards.campo import Campo
from agentrl.rewards.hapo import Hapo, length_reward
from agentrl.rewards.kimi_length import KimiLength
from agentrl.rewards.laser import Laser, LaserD, band_of, needed, target_length
from agentrl.rewards.repetition import covered_share, loop_share
from agentrl.rewards.rlsp import Rlsp
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.transcript import ids_array
from agentrl.types import Task

Member = Callable[..., Trajectory]
Groups = Callable[..., Group]


def shaped_by(shaper: object, group: Group, history: HistoryStore, ctx: Ctx) -> list[float]:
    return shaper(group, summed(group), history, ctx).rewards_G.tolist()  # type: ignore[operator]


def test_length_counts_sampled_tokens_unless_told(member: Member):
    """1 prompt + 5 sampled + 1 observation + 1 sampled."""
    trajectory = member(n_sampled=5, turns=("a", "b"))
    assert (length(trajectory), length(trajectory, "context")) == (6, 8)


@pytest.mark.parametrize(
    ("ok", "n_tokens", "expected"),
    [
        (True, 50, 0.70711),
        (True, 100, 0.0),
        (True, 150, -0.7),
        (True, 250, -0.7),
        (False, 50, 0.0),
        (False, 150, -0.70711),
        (False, 250, -1.0),
    ],
)
def test_hapo_cosine(ok: bool, n_tokens: int, expected: float):
    assert length_reward(n_tokens, 100, ok=ok) == pytest.approx(expected, abs=1e-4)
    assert length_reward(n_tokens, None, ok=ok) == 0.0


@pytest.mark.parametrize(
    ("ok", "n_tokens", "expected"),
    [
        (True, 50, 0.5),
        (True, 105, 0.0),
        (True, 130, -0.2),
        (True, 250, -0.7),
        (False, 50, 0.0),
        (False, 105, 0.0),
        (False, 130, -0.2),
        (False, 250, -1.0),
    ],
)
def test_hapo_linear(ok: bool, n_tokens: int, expected: float):
    got = length_reward(n_tokens, 100, ok=ok, form="linear")
    assert got == pytest.approx(expected, abs=1e-9)


def test_hapo_reads_before_it_writes(member: Member, group: Groups, ctx: Ctx):
    """Siblings of 40 and 90 tokens at h = 100: both are measured against 100, not against 40."""
    history = HistoryStore()
    history.commit([Write("hapo.min", "t", 100.0, "min", "before")])
    siblings = group(member(0, 1.0, 40), member(1, 1.0, 90), member(2, 0.0, 10))
    shaped = Hapo()(siblings, summed(siblings), history, ctx)
    assert shaped.rewards_G.tolist() == pytest.approx([1.80902, 1.15643, 0.0], abs=1e-4)
    assert history.get("hapo.min", "t") == 100
    history.commit(shaped.writes)
    assert history.get("hapo.min", "t") == 40
    again = shaped_by(Hapo(), siblings, history, ctx)
    assert again == pytest.approx([1.0, 0.3, 0.0], abs=1e-4)


def test_hapo_first_visit_pays_nothing_and_wrong_answers_set_nothing(
    member: Member, group: Groups, ctx: Ctx
):
    wrong = group(member(0, 0.0, 5), member(1, 0.0, 9))
    shaped = Hapo()(wrong, summed(wrong), HistoryStore(), ctx)
    assert (shaped.rewards_G.tolist(), shaped.writes) == ([0.0, 0.0], ())


def test_hapo_mean_is_the_running_mean(member: Member, group: Groups, ctx: Ctx):
    history = HistoryStore()
    pair = group(member(0, 1.0, 100), member(1, 1.0, 300))
    history.commit(Hapo(mode="mean")(pair, summed(pair), history, ctx).writes)
    assert history.get("hapo.mean", "t") == 200
    assert shaped_by(Hapo(mode="mean"), pair, history, ctx) == pytest.approx(
        [1.70711, 0.3], abs=1e-4
    )


def test_hapo_repetition_is_the_share_inside_repeated_trigrams(
    member: Member, group: Groups, ctx: Ctx
):
    """1 2 3 4 1 2 3 5: the two 1 2 3 cover 6 of 8 tokens."""
    ids = [1, 2, 3, 4, 1, 2, 3, 5]
    assert covered_share(ids_array(ids), 3) == 0.75
    looping = group(member(0, 1.0, turn_ids=[ids]))
    assert shaped_by(Hapo(repetition=0.4), looping, HistoryStore(), ctx) == pytest.approx([0.7])


def test_any_right_answer_beats_any_wrong_one_under_hapo():
    worst = 1 + min(length_reward(n, 100, ok=True) for n in range(1, 500))
    best = max(length_reward(n, 100, ok=False) for n in range(1, 500))
    assert worst == pytest.approx(0.3)
    assert best == 0.0


def test_laser_pays_right_answers_within_the_target(member: Member, group: Groups, ctx: Ctx):
    four = group(member(0, 1.0, 10), member(1, 1.0, 11), member(2, 0.0, 5), member(3, 0.0, 20))
    assert shaped_by(Laser(10), four, HistoryStore(), ctx) == [1.5, 1.0, 0.0, 0.0]


def test_laser_d_targets():
    """G = 8, lengths 1000 2000 3000 4000 in every band, grid 1024 ... 4096."""
    grid = [1024, 2048, 3072, 4096]
    seen = dict.fromkeys(grid, 1.0)
    n_b = [needed(band, 8) for band in ("high", "medium", "low")]  # type: ignore[arg-type]
    assert n_b == [5, 2, 1]
    assert [target_length(seen, grid, 4, n) for n in n_b] == [1024, 2048, 4096]
    assert target_length({}, grid, 0, 5) == 4096
    assert target_length({1024: 1.0}, grid, 10, 1) == 4096
    assert [band_of(k / 3) for k in range(4)] == ["low", "medium", "high", "high"]


def test_laser_d_uses_the_last_finished_window(member: Member, group: Groups):
    """An easy group seen in window 0 sets the target of window 1, and none of window 0."""
    shaper = LaserD(every=2, low_tokens=10, high_tokens=40, step_tokens=10)
    easy = group(*(member(i, 1.0, n) for i, n in enumerate([8, 18, 28, 50])))
    history = HistoryStore()
    first = shaper(easy, summed(easy), history, Ctx(0, 10, 0))
    assert first.rewards_G.tolist() == [1.5, 1.5, 1.5, 1.0]
    assert [w.key for w in first.writes] == ["0/high/10", "0/high/20", "0/high/30", "0/high/0"]
    history.commit(first.writes)
    assert shaper.target("high", 2, history, 1) == 40
    assert shaper.target("high", 2, history, 2) == 20
    assert shaper.target("high", 2, history, 7) == 20
    assert shaper.target("low", 1, history, 2) == 40
    later = shaper(easy, summed(easy), history, Ctx(2, 10, 0))
    assert later.rewards_G.tolist() == [1.5, 1.5, 1.0, 1.0]


def test_laser_de_pays_failures_that_go_on_without_looping(member: Member, group: Groups):
    long = list(range(50))
    looping = [1, 2] * 25
    hard = group(
        member(0, 0.0, turn_ids=[long]), member(1, 0.0, turn_ids=[looping]), member(2, 0.0, 5)
    )
    options = {"low_tokens": 10, "high_tokens": 40, "step_tokens": 10}
    plain, explore = LaserD(**options), LaserD(**options, explore=True)
    ctx = Ctx(0, 10, 0)
    assert shaped_by(plain, hard, HistoryStore(), ctx) == [0, 0, 0]
    assert shaped_by(explore, hard, HistoryStore(), ctx) == [0.5, 0, 0]


def test_adaptthink_table(member: Member, group: Groups, ctx: Ctx):
    """ref .75: NoThinking right .30, Thinking right .25, NoThinking wrong -.70, Thinking wrong -.75."""
    task = Task("t", "?", "42", {"ref_acc": 0.75})
    silent, loud = ("</think>42",), ("<think>hm</think>42",)
    four = group(
        *(
            member(i, env, turns=turns, task=task)
            for i, (env, turns) in enumerate(
                [(1.0, silent), (1.0, loud), (0.0, silent), (0.0, loud)]
            )
        )
    )
    got = shaped_by(AdaptThink(), four, HistoryStore(), ctx)
    assert got == pytest.approx([0.30, 0.25, -0.70, -0.75])


@pytest.mark.parametrize(
    ("text", "silent"),
    [
        ("</think>x", True),
        ("\n</think>x", True),
        ("<think>\n\n</think>x", True),
        ("Alright</think>", False),
        ("", False),
    ],
)
def test_no_thinking_is_read_off_the_first_sampled_text(member: Member, text: str, silent: bool):
    assert no_thinking(member(turns=(text, "</think>"))) is silent


def test_adaptthink_reference_by_option_and_history(member: Member, group: Groups, ctx: Ctx):
    pair = group(member(0, 1.0, turns=("</think>",)), member(1, 1.0), member(2, 0.0))
    history = HistoryStore()
    assert shaped_by(AdaptThink(reference=0.25), pair, history, ctx) == pytest.approx(
        [0.8, 0.75, -0.25]
    )
    first = AdaptThink()(pair, summed(pair), history, ctx)
    assert first.rewards_G.tolist() == pytest.approx([0.55, 0.5, -0.5])
    history.commit(first.writes)
    only_right = group(member(0, 1.0))
    assert shaped_by(AdaptThink(), only_right, history, ctx) == [0.5]


def test_adactrl_by_hand(member: Member, group: Groups, ctx: Ctx):
    """All right, so golden is Easy: t = T/2 earns 1 + .5 + .25, t = T 1.5, the wrong tag 1, none .5."""
    tagged = [("[Easy] a", 50), ("[Easy] b", 100), ("[Hard] c", 10), ("d", 10)]
    four = group(*(member(i, 1.0, n, turns=(text,)) for i, (text, n) in enumerate(tagged)))
    assert shaped_by(AdaCtrl(), four, HistoryStore(), ctx) == pytest.approx([1.75, 1.5, 1.0, 0.5])


def test_adactrl_is_hard_up_to_five_of_eight(member: Member, group: Groups, ctx: Ctx):
    """5 of 8 is .625, not above it: Hard is golden, and wrong answers get -1."""
    eight = [member(i, float(i < 5), turns=("[Hard]",)) for i in range(8)]
    got = shaped_by(AdaCtrl(), group(*eight), HistoryStore(), ctx)
    assert got == pytest.approx([1.5] * 5 + [-0.5] * 3)
    assert tag_of(eight[0]) == "Hard"


@pytest.mark.parametrize(
    ("ids", "share"),
    [
        ([1, 2, 3, 4, 3, 4, 3, 4], 0.75),
        ([1, 2, 3, 4], 0.0),
        ([], 0.0),
        ([7], 0.0),
        ([7, 7], 1.0),
        ([1, 7, 7, 7], 0.75),
        ([3, 4, 3, 4, 1], 0.0),
        ([1, 2, 3, 1, 2, 3], 1.0),
    ],
)
def test_terminal_loops(ids: list[int], share: float):
    assert loop_share(ids_array(ids)) == share


def test_the_longest_block_decides():
    """Five times 3 4 after 1 2: k = 2 would start at 2, k = 4 works too and starts at 4."""
    assert loop_share(ids_array([1, 2, *[3, 4] * 5])) == pytest.approx(8 / 12)


def test_campo_forms(member: Member, group: Groups, ctx: Ctx):
    looping = member(0, 1.0, turn_ids=[[1, 2, 3, 4, 3, 4, 3, 4]])
    cut = replace(looping, sibling=1, uid="1", stop=StopReason.MAX_TOKENS)
    clean = member(2, 1.0, turn_ids=[[1, 2, 3, 4]], stop=StopReason.MAX_TOKENS)
    three = group(looping, cut, clean)
    assert shaped_by(Campo(), three, HistoryStore(), ctx) == [0.25, 0.25, 1.0]
    code = Campo(form="constant", weight=0.1)
    assert shaped_by(code, three, HistoryStore(), ctx) == pytest.approx([1.0, 0.9, 1.0])


def test_rlsp_with_and_without_the_judge(member: Member, group: Groups, ctx: Ctx):
    """Right, L = 2000 tokens = 8000 characters, effort .6: .8 x .5 + .12 = .52; off: .5."""
    text = "x" * 8000
    graded = {"judge/exploration": 0.6}
    one = group(member(0, 1.0, rewards=graded, turns=(text,), answer="42"))
    assert shaped_by(Rlsp(), one, HistoryStore(), ctx) == pytest.approx([0.52])
    assert shaped_by(Rlsp(effort=None), one, HistoryStore(), ctx) == pytest.approx([0.5])


def test_rlsp_without_answer_or_grade(member: Member, group: Groups, ctx: Ctx):
    """acc -.5 and fallback .5: .8 (-.5 - .5) + .1 = -.7; P = 0 leaves .8 x 1 + .1."""
    graded = {"judge/exploration": 0.5}
    two = group(
        member(0, 0.0, turns=("x" * 8000,)),
        member(1, 1.0, turns=("x" * 8000,), answer="42", rewards=graded),
    )
    assert shaped_by(Rlsp(), two, HistoryStore(), ctx) == pytest.approx([-0.7, 0.5])
    assert shaped_by(Rlsp(penalty=0), two, HistoryStore(), ctx) == pytest.approx([-0.3, 0.9])
    with pytest.raises(UserError, match="judge/exploration"):
        shaped_by(Rlsp(), group(two.trajectories[0]), HistoryStore(), ctx)


def test_rlsp_replaces_a_summed_effort(member: Member, group: Groups, ctx: Ctx):
    """Effort named without a slash is in the sum already and must not count twice."""
    one = group(member(0, 1.0, rewards={"effort": 0.6}, turns=("x" * 8000,), answer="42"))
    assert shaped_by(Rlsp(effort="effort"), one, HistoryStore(), ctx) == pytest.approx([0.52])


def test_kimi_length(member: Member, group: Groups, ctx: Ctx):
    """100 right, 200 right, 300 wrong: .5, 0, -.5; wrong at 100 gets 0, never a bonus."""
    three = group(member(0, 1.0, 100), member(1, 1.0, 200), member(2, 0.0, 300))
    assert shaped_by(KimiLength(), three, HistoryStore(), ctx) == [1.5, 1.0, -0.5]
    right = group(*(member(i, 1.0, n) for i, n in enumerate([100, 200, 300])))
    assert shaped_by(KimiLength(), right, HistoryStore(), ctx) == [1.5, 1.0, 0.5]
    wrong = group(member(0, 0.0, 100), member(1, 0.0, 200))
    assert shaped_by(KimiLength(), wrong, HistoryStore(), ctx) == [0.0, -0.5]
    equal = group(member(0, 1.0, 100), member(1, 0.0, 100))
    assert shaped_by(KimiLength(), equal, HistoryStore(), ctx) == [1.0, 0.0]


def test_histories_survive_a_checkpoint(member: Member, group: Groups):
    """Steps 0 to 5 in one piece and with the store written and read between all of them."""
    shapers = [Hapo(), LaserD(every=2, low_tokens=10, high_tokens=40, step_tokens=10), AdaptThink()]
    steps = [
        group(*(member(i, float((i + s) % 2), 5 + 7 * i + s) for i in range(4))) for s in range(6)
    ]

    def run(resume: bool) -> list[list[float]]:
        history, found = HistoryStore(), []
        for step, members in enumerate(steps):
            writes: list[Write] = []
            for shaper in shapers:
                shaped = shaper(members, summed(members), history, Ctx(step, 6, 0))
                found.append(shaped.rewards_G.tolist())
                writes += shaped.writes
            history.commit(writes)
            if resume:
                history = HistoryStore.from_json(json.loads(json.dumps(history.to_json())))
        return found

    assert run(True) == run(False)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Hapo(w=1.5),
        lambda: Hapo(repetition=-1),
        lambda: Laser(0),
        lambda: LaserD(low_tokens=10, high_tokens=5),
        lambda: AdaCtrl(easy=2),
        lambda: Rlsp(share=2),
    ],
)
def test_bad_settings_are_told(make: Callable[[], object]):
    with pytest.raises(UserError):
        make()
