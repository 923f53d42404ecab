"""REX-RAG's plan: wrong originals re-opened, everybody under the mixture's probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from agentrl.algo.batch import make_batch
from agentrl.algo.offpolicy import OFF, denominators
from agentrl.errors import UserError
from agentrl.points import Ctx
from agentrl.rewards.base import rewarded, summed
from agentrl.rollout.plans.reflections import REFLECTIONS
from agentrl.rollout.plans.rex_rag import RexRag, mixture, moving, prefix_logprobs, trie_logprobs
from agentrl.trajectory import Group, StopReason
from agentrl.transcript import Float32Array, Origin, floats_array

CTX = Ctx(step=3, total_steps=9, seed=1)
DOUBTS = ("A B C", "A B D", "A E")


def logs(*values: float) -> Float32Array:
    return floats_array([math.log(v) if v else -math.inf for v in values])


def test_the_vectors_of_the_mixture() -> None:
    """20 originals + 5 clones: a = .2; an original token .5 -> .40; a clone's prefix token -> .60."""
    assert float(np.exp(mixture(logs(0.5), logs(0.0), 5 / 25))[0]) == pytest.approx(0.40)
    prefix = prefix_logprobs(logs(0.5, 0.5, 0.5, 0.5), 0.0625)
    assert np.exp(prefix).tolist() == pytest.approx([1.0] * 4)
    assert np.exp(mixture(logs(*[0.5] * 4), prefix, 0.2)).tolist() == pytest.approx([0.6] * 4)
    product = float((prefix - logs(0.5, 0.5, 0.5, 0.5)).sum())
    assert math.exp(product) == pytest.approx(1 / 0.0625), "conditioned on having failed"
    assert float(np.exp(mixture(logs(0.9), logs(1.8), 0.5))[0]) == pytest.approx(1.35)


def test_the_vectors_of_trie_and_mean() -> None:
    texts = [text.split() for text in DOUBTS]
    ids = [[ord(w) for w in text] for text in texts]
    assert np.exp(trie_logprobs(ids, ids[0])).tolist() == pytest.approx([1, 2 / 3, 1 / 2])
    assert np.exp(trie_logprobs(ids, ids[2])).tolist() == pytest.approx([1, 1 / 3])
    assert moving(0.2, 0.4) == pytest.approx(0.22)


def test_thirty_sentences_of_which_every_one_is_as_likely() -> None:
    assert len(set(REFLECTIONS)) == 30
    ids = [list(text.encode()) for text in REFLECTIONS]
    totals = [sum(trie_logprobs(ids, text)) for text in ids]
    assert np.exp(totals).tolist() == pytest.approx([1 / 30] * 30)


class Likes:
    """A scorer that likes the rows it is shown first best; every token of a row alike."""

    def __init__(self, *likings: float) -> None:
        self.likings, self.rows = likings, 0

    async def logprobs(self, model: str, rows: Sequence[Sequence[int]]) -> list[Float32Array]:
        assert model == "policy"
        self.rows += len(rows)
        return [
            floats_array([self.likings[i % len(self.likings)]] * len(row))
            for i, row in enumerate(rows)
        ]


def turn(text: str, seed: int) -> str:
    """Every original is wrong; every doubt leads to the right answer."""
    return "<answer>4</answer>" if text.endswith(DOUBTS) else "no<answer>5</answer>"


def plan(world: Any, **options: Any) -> RexRag:
    given = {"group_size": 4, "probability": 1.0, "reflections": DOUBTS} | options
    return RexRag(world.renderer, **given)


async def collected(
    world: Any, served: Any, made: RexRag, scorer: Any = None, ctx: Ctx = CTX, turn: Any = turn
) -> Group:
    services = served(turn, scorer=scorer or Likes(-1.0))
    return await made.collect(world.task, services, ctx)


async def test_wrong_originals_are_reopened_where_they_answered(world: Any, served: Any) -> None:
    group = await collected(world, served, plan(world))
    assert [t.sibling for t in group.trajectories] == list(range(8))
    assert [t.rewards["env"] for t in group.trajectories] == [0.0] * 4 + [1.0] * 4
    original, clone = group.trajectories[0], group.trajectories[4]
    assert clone.parent == original.uid
    n_prompt = len(original.rows[0].segments[0])
    assert clone.fork_tokens == n_prompt + 2, "`no` stays, the answer goes"
    origins = [s.origin for s in clone.rows[0].segments]
    assert origins == [Origin.PROMPT, Origin.MODEL, Origin.FORCED, Origin.MODEL]
    assert clone.messages[-1].content[2:5] in {"A B", "A E"}


async def test_every_token_is_recorded_under_the_mixture(world: Any, served: Any) -> None:
    """a = 4/8 and err = 1: originals pi/2, prefix pi, insertion (e^-1 + mu)/2, continuation pi."""
    group = await collected(world, served, plan(world), Likes(-1.0))
    plain = await collected(world, served, plan(world, probability=0.0))
    assert all(t.rows[0].train_context is None for t in plain.trajectories)
    original, clone = group.trajectories[0].rows[0], group.trajectories[4].rows[0]
    old = plain.trajectories[0].rows[0].logprobs
    mask = original.mask
    assert original.logprobs[mask] == pytest.approx(old[mask] - math.log(2), abs=1e-5)
    first = len(clone.segments[0])
    assert clone.logprobs[first : first + 2] == pytest.approx(old[first : first + 2], abs=1e-5)
    forced = clone.segments[2]
    wanted = trie_logprobs(
        [world.renderer.demo(d).tolist() for d in DOUBTS], forced.token_ids.tolist()
    )
    assert np.exp(forced.logprobs).tolist() == pytest.approx(
        [(math.exp(-1) + math.exp(mu)) / 2 for mu in wanted], abs=1e-5
    )
    batch = make_batch([rewarded(group, summed(group))], pad_id=0)
    learner = batch.behaviour_logprobs - 0.5
    assert denominators(batch, learner, OFF).old[batch.mask].tolist() == pytest.approx(
        batch.behaviour_logprobs[batch.mask].tolist()
    )


async def test_a_mixture_above_one_is_counted(world: Any, served: Any) -> None:
    """Half fail: a prefix token of -0.1 has mu = pi / .5^(1/2) > 1."""

    def some(text: str, seed: int) -> str:
        if text.endswith(DOUBTS):
            return "<answer>4</answer>"
        return "no<answer>4</answer>" if seed % 2 else "no<answer>5</answer>"

    group = await collected(world, served, plan(world, group_size=12), turn=some)
    clones = [t for t in group.trajectories if t.rewards["rex/clone"]]
    wrong = [t for t in group.trajectories if not t.correct]
    assert 0 < len(clones) == len(wrong) < 12
    for clone in clones:
        row = clone.rows[0]
        assert float(row.logprobs.max()) <= 0
        n_over = round(clone.rewards["rex/over"] * row.n_sampled)
        err = len(wrong) / 12
        share = len(clones) / len(group.trajectories)
        at = len(row.segments[0])
        for k in (0, 1):
            pi = math.exp(-0.1 - 0.05 * ((at + k) % 7))
            mixed = (1 - share) * pi + share * pi / err**0.5
            n_over -= mixed > 1
            assert math.exp(row.logprobs[at + k]) == pytest.approx(min(mixed, 1), abs=1e-5)
        assert n_over == 0


async def test_the_likeliest_clones_are_kept_by_past_accuracy(world: Any, served: Any) -> None:
    made = plan(world)
    made.restore({"ratio": 0.5, "last": None})
    group = await collected(world, served, made, Likes(-3.0, -1.0, -2.0, -4.0))
    assert [t.sibling for t in group.trajectories] == [0, 1, 2, 3, 5, 6]
    made.restore({"ratio": 0.25, "last": None})
    group = await collected(world, served, made, Likes(-3.0, -1.0, -2.0, -4.0))
    assert [t.sibling for t in group.trajectories] == [0, 1, 2, 3, 5]


async def test_the_ratio_follows_all_clones_of_a_step(world: Any, served: Any) -> None:
    """.2 of the clones are right, then .4: .22 is what the next step keeps; dropped ones count."""
    made = plan(world, group_size=5)
    assert made.state() == {"ratio": None, "last": None}
    for step, right in ((3, 1), (4, 2)):
        answers = iter(["<answer>4</answer>"] * right + ["<answer>6</answer>"] * (5 - right))

        def some(text: str, seed: int, answers: Any = answers) -> str:
            return next(answers) if text.endswith(DOUBTS) else "no<answer>5</answer>"

        group = await collected(
            world, served, made, ctx=Ctx(step=step, total_steps=9, seed=1), turn=some
        )
        made.observe([group], CTX)
    assert made.state()["ratio"] == pytest.approx(0.22)
    again = plan(world)
    again.restore(made.state())
    assert again.state() == made.state()


async def test_the_mixture_is_the_last_batchs(world: Any, served: Any) -> None:
    """4 originals, 4 clones and 4 right originals: a = 4/12, err = 1/2; also where no clone is."""
    made = plan(world)
    one = await collected(world, served, made)
    right = await collected(world, served, made, turn=lambda *_: "<answer>4</answer>")
    made.observe([one, right], CTX)
    assert made.state()["last"] == pytest.approx([1 / 3, 1 / 2])
    made.restore({"ratio": None, "last": [1 / 3, 1 / 2]})
    again = await collected(world, served, made, turn=lambda *_: "<answer>4</answer>")
    before, after = right.trajectories[0].rows[0], again.trajectories[0].rows[0]
    kept = after.mask
    assert after.logprobs[kept] == pytest.approx(before.logprobs[kept] + math.log(2 / 3), abs=1e-5)
    clone = (await collected(world, served, made)).trajectories[4].rows[0]
    at = len(clone.segments[0])
    pi = math.exp(-0.1 - 0.05 * (at % 7))
    wanted = min(1.0, 2 / 3 * pi + 1 / 3 * pi / 0.5**0.5)
    assert math.exp(clone.logprobs[at]) == pytest.approx(wanted, abs=1e-5)


async def test_a_right_original_is_left_alone(world: Any, served: Any) -> None:
    group = await collected(world, served, plan(world), turn=lambda *_: "<answer>4</answer>")
    assert len(group.trajectories) == 4


async def test_a_clone_has_its_own_number_of_turns(world: Any, served: Any) -> None:
    def calls(text: str, seed: int) -> str:
        return "<code>1</code>" if "A" in text else "<answer>5</answer>"

    group = await collected(world, served, plan(world, max_turns=2), turn=calls)
    clone = group.trajectories[4]
    assert (clone.stop, clone.n_calls) == (StopReason.MAX_TURNS, 2)


async def test_it_needs_a_scorer(world: Any, served: Any) -> None:
    services = served(turn)
    with pytest.raises(UserError, match="scores rows"):
        await plan(world).collect(world.task, services, CTX)
    assert RexRag.needs == {"scorer"}
