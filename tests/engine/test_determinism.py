"""Law 9: a row's tokens and logprobs have the same bits whatever else the engine is doing."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentrl.engine.base import Generation, Sampling
from agentrl.engine.transformers import TransformersEngine

KINDS = ["qwen2", "qwen3", "llama"]
"""Query groups of 2, 4 (split in two attention calls) and 1."""

SAMPLINGS = (
    Sampling(max_tokens=14, seed=1, entropies=True),
    Sampling(max_tokens=14, seed=2, temperature=0.6, top_p=0.9, entropies=True),
    Sampling(max_tokens=14, seed=3, top_k=5, entropies=True),
    Sampling(max_tokens=14, seed=4, temperature=0.0, entropies=True),
)


@pytest.fixture(scope="module", params=KINDS)
def engines(request, folders):
    """An engine that has one slot and no neighbours, and a crowded one."""
    lonely = TransformersEngine(folders[request.param], max_batch=1)
    crowded = TransformersEngine(folders[request.param], max_batch=24)
    asyncio.run(lonely.open())
    asyncio.run(crowded.open())
    yield lonely, crowded
    asyncio.run(lonely.close())
    asyncio.run(crowded.close())


def bits(g: Generation) -> tuple[bytes, bytes, bytes]:
    assert g.entropies is not None
    return g.token_ids.tobytes(), g.logprobs.tobytes(), g.entropies.tobytes()


async def arrive(engine, row, sampling, pause_s: float) -> Generation:
    await asyncio.sleep(pause_s)
    return await engine.generate(row, sampling)


PROBE = st.tuples(st.integers(1, 230), st.integers(0, 3))
NEIGHBOUR = st.tuples(
    st.integers(1, 200), st.integers(0, 99), st.integers(1, 30), st.integers(0, 20)
)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(probe=PROBE, pause=st.integers(0, 20), crowd=st.lists(NEIGHBOUR, max_size=30))
def test_neighbours_slots_and_arrival_do_not_change_a_bit(engines, helpers, probe, pause, crowd):
    lonely, crowded = engines
    row, sampling = helpers.prompt(probe[0], 1000 + probe[0]), SAMPLINGS[probe[1]]

    async def run():
        alone = await lonely.generate(row, sampling)
        others = [
            arrive(crowded, helpers.prompt(n, seed), Sampling(max_tokens=m, seed=seed), wait / 2000)
            for n, seed, m, wait in crowd
        ]
        results = await helpers.gather(arrive(crowded, row, sampling, pause / 2000), *others)
        return alone, results[0]

    alone, together = asyncio.run(run())
    assert bits(alone) == bits(together)


async def test_later_turns_have_the_same_bits_with_and_without_the_cached_prefix(engines, helpers):
    """Four siblings of one prompt, three turns each; the lonely engine recomputes everything."""
    lonely, crowded = engines

    async def episode(engine, sibling: int) -> list[Generation]:
        row, turns = helpers.prompt(60, 5), []
        for turn in range(3):
            sampling = Sampling(max_tokens=20, seed=10 * sibling + turn, entropies=True)
            turns.append(await engine.generate(row, sampling))
            row = np.concatenate([row, turns[-1].token_ids, helpers.prompt(15, sibling)])
        return turns

    before = crowded.statistics().prefill_tokens
    together = await helpers.gather(*[episode(crowded, s) for s in range(4)])
    reused = crowded.statistics().prefill_tokens - before
    before = lonely.statistics().prefill_tokens
    for sibling in range(4):
        alone = await episode(lonely, sibling)
        assert [bits(g) for g in alone] == [bits(g) for g in together[sibling]]
        for s in range(3):  # other work evicts what the lonely engine had kept
            await lonely.generate(helpers.prompt(60, 900 + s), Sampling(max_tokens=2))
    recomputed = lonely.statistics().prefill_tokens - before
    # Cached: the prompt once and, per later turn, its 15 new tokens and the last sampled one.
    assert reused <= 60 + 4 * 2 * 16
    assert recomputed > 4 * reused


async def test_scoring_a_row_gives_the_bits_that_generating_it_gave(engines, helpers):
    _, crowded = engines
    row = helpers.prompt(45)
    for sampling in (SAMPLINGS[0], Sampling(max_tokens=14, temperature=0.6)):
        g = await crowded.generate(row, sampling)
        whole = np.concatenate([row, g.token_ids])
        scored = await crowded.score(whole, sampling)
        assert scored[len(row) :].tobytes() == g.logprobs.tobytes()


async def test_a_request_resumed_from_its_own_prefix_draws_the_same_tokens(engines, helpers):
    """Draws depend on (seed, position) alone, so a row cut anywhere goes on as it did."""
    _, crowded = engines
    row, sampling = helpers.prompt(33), Sampling(max_tokens=30, seed=8)
    whole = await crowded.generate(row, sampling)
    for cut in (1, 11, 29):
        rest = await crowded.generate(
            np.concatenate([row, whole.token_ids[:cut]]), Sampling(max_tokens=30 - cut, seed=8)
        )
        assert rest.token_ids.tolist() == whole.token_ids[cut:].tolist()
        assert rest.logprobs.tobytes() == whole.logprobs[cut:].tobytes()
