"""One sample's way through every room, with its numbers worked out by hand.

The task is `3*4=?` of the family `mul`; gold 12. nano's ids: byte b is b; 257 <|user|>,
258 <|system|>, 259 <|assistant|>, 260 <|end|>, 264 <code>, 265 </code>, 266 <interpreter>,
267 </interpreter>, 268 <answer>, 269 </answer>.

PROMPT, 23 ids, `<|system|>Tools: python<|end|><|user|>3*4=?<|end|><|assistant|>`:

    258  T  o   o   l   s   :  ' '  p   y   t   h   o   n  260 257  3  *  4  =  ?  260 259
        84 111 111 108 115 58  32  112 121 116 104 111 110          51 42 52 61 63

Sibling 0 computes and is right (37 ids):

    MODEL        264 <code> 51 '3' 42 '*' 52 '4' 265 </code>      logprobs -0.1 -0.2 -0.3 -0.4 -0.5
    OBSERVATION  266 <interpreter> 49 '1' 50 '2' 267              what Python printed
    MODEL        268 <answer> 49 '1' 50 '2' 269 260 <|end|>       logprobs -0.6 -0.7 -0.8 -0.9 -1.0

Sibling 1 guesses and is wrong (27 ids):

    MODEL        268 <answer> 55 '7' 269 260                      logprobs -1.1 -1.2 -1.3 -1.4

Rewards [1, 0]: mean 1/2, sample deviation sqrt(1/2), so A = +-(1/2) / (sqrt(1/2) + 1e-6) = +-0.7071058.

Clip loss (0.2, 0.2) where the learner now gives sibling 0's first five tokens 1.1 times their old
probability, its last five 1.5 times (clipped to 1.2), and sibling 1's four 0.5 times (A < 0: the
bound 0.8 is the worse of the two):

    L = (5 * -1.1 A + 5 * -1.2 A + 4 * 0.8 A) / 14 = -8.3 A / 14 = -0.4192127

At a ratio of one, as in the learner's first step: L = (10 * -A + 4 * A) / 14 = -6 A / 14 = -0.3030453.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from math import log, sqrt
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import torch

from agentrl.algo.advantage import Outcome, estimate
from agentrl.algo.batch import make_batch
from agentrl.algo.loss import Aggregate, Clip
from agentrl.chat.nano import NanoRenderer, build_nano_tokenizer
from agentrl.chat.protocols.retool import ReTool
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.engine.base import Sampling
from agentrl.engine.scripted import Reply, ScriptedEngine
from agentrl.engine.transformers import TransformersEngine
from agentrl.errors import SandboxUnavailable
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Services
from agentrl.rollout.limits import Limits, Slots
from agentrl.rollout.loop import Episodes
from agentrl.rollout.parts import Names, Parts
from agentrl.rollout.plans.sample import Sample
from agentrl.sandbox import SandboxPool
from agentrl.train.collect import shape
from agentrl.train.fresh import fresh_model
from agentrl.train.sync import Sync, probe_ids
from agentrl.train.torch_learner import TorchLearner
from agentrl.trajectory import Group, StopReason
from agentrl.transcript import Origin
from agentrl.types import Task
from agentrl_envs.retool_math import RetoolMath
from agentrl_sandbox.local import LocalPool

TASK = Task("mul/1/3-4", "3*4=?", "12", {"family": "mul", "level": 1, "operands": ["3", "4"]})
CTX = Ctx(step=0, total_steps=1, seed=5)

PROMPT = [258, 84, 111, 111, 108, 115, 58, 32, 112, 121, 116, 104, 111, 110, 260,
          257, 51, 42, 52, 61, 63, 260, 259]  # fmt: skip
CALL = [264, 51, 42, 52, 265]
OUTPUT = [266, 49, 50, 267]
RIGHT = [268, 49, 50, 269, 260]
WRONG = [268, 55, 269, 260]
LOGPROBS = [[-0.1, -0.2, -0.3, -0.4, -0.5], [-0.6, -0.7, -0.8, -0.9, -1.0]]
WRONG_LOGPROBS = [-1.1, -1.2, -1.3, -1.4]
A = 0.5 / (sqrt(0.5) + 1e-6)
SHAPE = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one_sample")
    fresh_model(SHAPE, folder, seed=3)
    return folder


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[SandboxPool]:
    pool = LocalPool(max_sessions=2)
    try:
        await pool.open()
    except SandboxUnavailable as error:
        pytest.skip(f"no sandbox here: {error}")
    yield pool
    await pool.close()


def parts(folder: Path, pool: SandboxPool) -> Parts:
    """The real rooms around an engine that has yet to be given its script."""
    build_nano_tokenizer(folder)
    tokenizer = load_tokenizer(folder)
    first: dict[int, int] = {}

    def script(row: np.ndarray, sampling: Sampling, request: int) -> Reply:
        """Siblings share their prompt and are told apart by the seed of their first turn."""
        if sampling.seed == first[1]:
            return Reply(WRONG, WRONG_LOGPROBS)
        turn = 0 if sampling.seed == first[0] else 1
        return Reply((CALL, RIGHT)[turn], LOGPROBS[turn])

    made = Parts(
        make_env=lambda: RetoolMath(style="terse"),
        engine=ScriptedEngine(script, tokenizer=tokenizer),
        renderer=NanoRenderer(tokenizer),
        protocol=ReTool(fence=False),
        limits=Limits(turn_tokens=16, max_tokens=64),
        sampling=Sampling(max_tokens=1),
        tool_slots=Slots(2),
        pool=pool,
    )
    first |= {s: Names(5, 0, TASK).seeds(s).turn(0) for s in (0, 1)}
    return made


async def rollout(made: Parts) -> Group:
    services = Services(episodes=Episodes(made, seed=5))
    return await Sample(group_size=2).collect(TASK, services, CTX)


async def test_one_sample(model: Path, tmp_path: Path, pool: SandboxPool):
    group = await rollout(parts(tmp_path, pool))
    check_rows(group)

    shaped, writes = shape(group, (), HistoryStore(), CTX)
    assert [t.reward for t in shaped.trajectories] == [1.0, 0.0]
    assert writes == ()

    batch = make_batch([shaped], pad_id=0)
    check_batch(batch)
    batch = estimate(Outcome(), batch, CTX)
    check_advantages(batch, batch.advantages)
    check_loss(batch, batch.advantages)

    await check_learner_and_sync(model, batch)


def check_rows(group: Group) -> None:
    """env.reset -> renderer -> engine -> protocol -> env.step -> tool -> sandbox -> renderer."""
    right, wrong = group.trajectories
    assert [(s.origin, s.token_ids.tolist()) for s in right.rows[0].segments] == [
        (Origin.PROMPT, PROMPT),
        (Origin.MODEL, CALL),
        (Origin.OBSERVATION, OUTPUT),
        (Origin.MODEL, RIGHT),
    ]
    assert right.rows[0].mask.tolist() == [False] * 23 + [True] * 5 + [False] * 4 + [True] * 5
    expected = [0.0] * 23 + LOGPROBS[0] + [0.0] * 4 + LOGPROBS[1]
    assert right.rows[0].logprobs == pytest.approx(expected, abs=1e-7)
    assert (right.rewards, right.answer, right.stop) == ({"env": 1.0}, "12", StopReason.TERMINATED)
    assert [(c.name, c.content, c.error) for c in right.calls] == [("python", "12", None)]

    assert [(s.origin, s.token_ids.tolist()) for s in wrong.rows[0].segments] == [
        (Origin.PROMPT, PROMPT),
        (Origin.MODEL, WRONG),
    ]
    assert wrong.rows[0].mask.tolist() == [False] * 23 + [True] * 4
    assert (wrong.rewards, wrong.answer, wrong.n_calls) == ({"env": 0.0}, "7", 0)
    assert (right.n_sampled, wrong.n_sampled) == (10, 4)
    assert [t.uid for t in group.trajectories] == ["0/mul/1/3-4/0", "0/mul/1/3-4/1"]


def check_batch(batch: object) -> None:
    """Two rows of at most 37 tokens; 14 of them carry gradient."""
    assert batch.token_ids.tolist() == [
        PROMPT + CALL + OUTPUT + RIGHT,
        PROMPT + WRONG + [0] * 10,
    ]
    assert batch.attention_mask.tolist() == [[True] * 37, [True] * 27 + [False] * 10]
    assert batch.mask.tolist() == [
        [False] * 23 + [True] * 5 + [False] * 4 + [True] * 5,
        [False] * 23 + [True] * 4 + [False] * 10,
    ]
    assert (batch.n_tokens, batch.n_sequences) == (14, 2)
    assert batch.rewards.tolist() == [1.0, 0.0]
    assert (batch.trajectory_index.tolist(), batch.group_index.tolist()) == ([0, 1], [0, 0])
    assert batch.lengths.tolist() == batch.trained.tolist() == [10, 4]
    assert batch.versions[batch.mask].tolist() == [0] * 14
    assert batch.behaviour_logprobs[1, 23:27].tolist() == pytest.approx(WRONG_LOGPROBS)


def check_advantages(batch: object, advantages: torch.Tensor) -> None:
    assert pytest.approx(0.7071058, abs=1e-7) == A
    assert advantages[0][batch.mask[0]].tolist() == pytest.approx([A] * 10)
    assert advantages[1][batch.mask[1]].tolist() == pytest.approx([-A] * 4)
    assert not advantages[~batch.mask].any()


def check_loss(batch: object, advantages: torch.Tensor) -> None:
    """The clipped surrogate at ratios 1.1, 1.5 and 0.5."""
    changes = torch.zeros(2, 37)
    changes[0, 23:28] = log(1.1)
    changes[0, 32:37] = log(1.5)
    changes[1, 23:27] = log(0.5)
    old = batch.behaviour_logprobs
    losses, metrics = Clip()(old + changes, old, advantages, batch.mask)
    assert losses[0, 23:28].tolist() == pytest.approx([-1.1 * A] * 5)
    assert losses[0, 32:37].tolist() == pytest.approx([-1.2 * A] * 5)
    assert losses[1, 23:27].tolist() == pytest.approx([0.8 * A] * 4)
    total = Aggregate("token-mean")(losses, batch)
    assert float(total) == pytest.approx(-8.3 * A / 14)
    assert float(total) == pytest.approx(-0.4192127, abs=1e-6)
    assert (int(metrics["clip_high_share"]), int(metrics["clip_low_share"])) == (5, 4)


async def check_learner_and_sync(model: Path, batch: object) -> None:
    """One step makes the right row likelier and the wrong one less likely; the engine follows."""
    learner = TorchLearner(model, lr=1e-3, seed=0)
    before = learner.logprobs(batch)
    learnt = learner.update(batch, loss=Clip(), aggregate=Aggregate("token-mean"), ctx=CTX)
    after = learner.logprobs(batch)
    assert learnt["loss"] == pytest.approx(-6 * A / 14, abs=1e-6)
    assert learnt["loss"] == pytest.approx(-0.3030453, abs=1e-6)
    assert (learnt["n_tokens"], learnt["optimizer_steps"]) == (14.0, 1.0)
    moved = after - before
    assert float(moved[0].sum()) > 0
    assert float(moved[1].sum()) < 0
    assert not moved[~batch.mask].any()

    engine = TransformersEngine(model, dtype="float32", max_batch=2, max_context=64)
    await engine.open()
    try:
        stale = await engine.score(batch.token_ids[0].int().numpy(), Sampling(max_tokens=1))
        sync = Sync(learner, engine, probe_ids(288, PROMPT, seed=5), "float32")
        assert await sync() < 1e-4
        assert engine.version == learner.version == 1
        fresh = await engine.score(batch.token_ids[0].int().numpy(), Sampling(max_tokens=1))
    finally:
        await engine.close()
    trained = batch.mask[0].numpy()
    assert fresh[trained] == pytest.approx(after[0].numpy()[trained], abs=1e-4)
    assert stale[trained] == pytest.approx(before[0].numpy()[trained], abs=1e-4)
