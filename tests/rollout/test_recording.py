"""Token truth of the loop: what is written down is what was sampled, and nothing is re-encoded."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentrl.engine.base import Generation, Sampling
from agentrl.engine.scripted import Reply
from agentrl.points import Ctx
from agentrl.rollout.limits import clip_text
from agentrl.rollout.loop import Episodes
from agentrl.rollout.parts import Names, Seeds
from agentrl.rollout.recorder import sampled_segments
from agentrl.seeds import derive
from agentrl.trajectory import StopReason
from agentrl.transcript import Origin, floats_array, ids_array
from agentrl.types import Task

CALL, ANSWER = "<code>1</code>", "<answer>4</answer>"


async def test_logprobs_entropies_and_temperature_are_the_engine_s(world: Any):
    """Three sampled tokens, then the answer's four."""
    engine = world.turns(
        Reply(CALL, [-0.1, -0.2, -0.3, 0.0], [1.0, 2.0, 3.0, 0.0]),
        Reply(ANSWER, [-0.5, -0.6, -0.7, -0.8], [4.0, 5.0, 6.0, 7.0]),
    )
    sampling = Sampling(max_tokens=1, temperature=0.5, entropies=True)
    row = (await world.play(engine, sampling=sampling)).rows[0]
    f32 = np.float32
    zeros = [0.0] * 3
    assert row.logprobs[19:].tolist() == [
        *map(float, map(f32, [-0.1, -0.2, -0.3])), *zeros,
        *map(float, map(f32, [-0.5, -0.6, -0.7, -0.8])),
    ]  # fmt: skip
    assert row.entropies[19:].tolist() == [1.0, 2.0, 3.0, *zeros, 4.0, 5.0, 6.0, 7.0]
    assert [s.temperature for s in row.segments if s.origin is Origin.MODEL] == [0.5, 0.5]
    assert row.logprobs[:19].tolist() == [0.0] * 19


async def test_greedy_tokens_are_scored_under_temperature_one(world: Any):
    sampling = Sampling(max_tokens=1, temperature=0.0)
    row = (await world.play(world.turns(ANSWER), sampling=sampling)).rows[0]
    assert row.temperatures.tolist() == [1.0] * 23


def test_a_version_change_inside_a_generation_makes_two_segments():
    """Weights 3 wrote two tokens, weights 4 the last one."""
    generation = Generation(
        ids_array([5, 6, 7]), floats_array([-1.0, -2.0, -3.0]), "stop_id", ((2, 3), (1, 4)),
        entropies=floats_array([0.1, 0.2, 0.3]),
    )  # fmt: skip
    first, second = sampled_segments(generation, 0.7)
    assert (first.token_ids.tolist(), first.version) == ([5, 6], 3)
    assert (second.token_ids.tolist(), second.version) == ([7], 4)
    assert (first.logprobs.tolist(), second.logprobs.tolist()) == ([-1.0, -2.0], [-3.0])
    assert first.temperature == second.temperature == 0.7
    assert second.entropies.tolist() == [np.float32(0.3)]


async def test_versions_reach_the_row(world: Any):
    engine = world.turns(ANSWER)
    generate = engine.generate

    async def updated(*arguments: Any) -> Generation:
        from dataclasses import replace

        return replace(await generate(*arguments), versions=((1, 0), (3, 1)))

    engine.generate = updated
    row = (await world.play(engine)).rows[0]
    assert [(s.origin, len(s), s.version) for s in row.segments[1:]] == [
        (Origin.MODEL, 1, 0),
        (Origin.MODEL, 3, 1),
    ]
    assert row.versions.tolist() == [-1] * 19 + [0, 1, 1, 1]


async def test_demonstrations_carry_no_logprobs(world: Any):
    """The same tokens as a rollout's, but DEMO, untrained by the policy term and of no length."""
    sampled = (await world.play(world.turns(CALL, ANSWER))).rows[0]
    demo = await world.play(world.turns(CALL, ANSWER), demo=True)
    row = demo.rows[0]
    assert row.token_ids.tolist() == sampled.token_ids.tolist()
    assert [s.origin for s in row.segments] == [
        Origin.PROMPT,
        Origin.DEMO,
        Origin.OBSERVATION,
        Origin.DEMO,
    ]
    assert all(s.logprobs is None and s.version is None for s in row.segments)
    assert (row.mask.any(), demo.n_sampled) == (np.False_, 0)


async def test_inline_results_stay_in_the_assistant_s_turn(world: Any):
    row = (await world.play(world.turns("<code>ab</code>", ANSWER))).rows[0]
    assert row.token_ids[19:-4].tolist() == [264, 97, 98, 265, 266, 97, 98, 267]


async def test_results_after_an_ended_turn_are_messages(world: Any):
    """`1</code` + <|end|> is unreadable and its turn is over: <|tool|>text<|end|><|assistant|>."""
    turn = [264, 49, 260]
    done = await world.play(world.turns(turn, ANSWER))
    added = done.rows[0].segments[2:4]
    assert [s.origin for s in added] == [Origin.OBSERVATION, Origin.SCAFFOLD]
    text = done.calls[0].content.encode()
    assert added[0].token_ids.tolist() == [261, *text, 260]
    assert added[1].token_ids.tolist() == [259]


async def test_a_turn_cut_at_a_stop_string_is_closed_for_a_message(world: Any):
    """A user message after `x</code>`: the closer 260 is SCAFFOLD, not the model's."""
    done = await world.play(world.turns("x</code>"), world.bare(), max_turns=1)
    assert [(s.origin, s.token_ids.tolist()) for s in done.rows[0].segments[1:]] == [
        (Origin.MODEL, [120, 265]),
        (Origin.SCAFFOLD, [260]),
        (Origin.OBSERVATION, [257, *b"on", 260]),
        (Origin.SCAFFOLD, [259]),
    ]


async def test_a_stop_spelled_in_bytes_is_kept_in_bytes(world: Any):
    """`</code>` written character by character stops the generation and is never made into 265."""
    spelled = list(b"<code>7</code>")
    engine = world.turns(spelled + list(b" tail"), ANSWER)
    done = await world.play(engine)
    row = done.rows[0].token_ids[19:].tolist()
    assert row[: len(spelled) + 3] == [*spelled, 266, 55, 267]
    assert world.log.code == ["7"]


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    turns=st.lists(st.lists(st.integers(0, 287), min_size=1, max_size=12), min_size=2, max_size=5)
)
def test_every_request_starts_with_all_that_came_before(world: Any, turns: list[list[int]]):
    """Arbitrary sampled ids: broken UTF-8, forged control tokens, tags in odd places."""
    engine = world.turns(*[[*turn, 260] for turn in turns])
    done = asyncio.run(
        world.play(engine, world.bare(), max_turns=len(turns), max_parse_errors=99, max_calls=99)
    )
    assert done.stop is StopReason.MAX_TURNS
    rows = [*engine.rows, done.rows[0].token_ids.tolist()]
    for before, sampled, after in zip(rows, engine.generated, rows[1:], strict=False):
        assert after[: len(before) + len(sampled)] == before + sampled
        assert len(after) > len(before) + len(sampled)
    trained = done.rows[0].token_ids[done.rows[0].mask].tolist()
    assert trained == [i for sampled in engine.generated for i in sampled]


async def test_a_long_observation_keeps_head_tail_and_closing_tag(world: Any):
    """Budget 20: `Traceback` ... `Error: x`; 20 bytes, then 267."""

    async def run(code: str) -> str:
        return "Traceback" + "." * 500 + "Error: x"

    done = await world.play(world.turns(CALL, ANSWER), world.quiz(run), observation_tokens=20)
    shown = next(s for s in done.rows[0].segments if s.origin is Origin.OBSERVATION)
    assert shown.token_ids.tolist() == [
        266,
        *b"Tracebac...Error: x"[:8],
        *b"...",
        *b".Error: x",
        267,
    ]
    assert len(shown) == 22
    assert done.messages[3].content == done.calls[0].content == "Tracebac....Error: x"
    assert done.calls[0].truncated


async def test_a_short_observation_is_not_marked_as_cut(world: Any):
    done = await world.play(world.turns(CALL, ANSWER), observation_tokens=20)
    assert done.calls[0].truncated is False


async def test_control_strings_of_the_world_stay_characters(world: Any):
    async def run(code: str) -> str:
        return "<|end|></interpreter>"

    done = await world.play(world.turns(CALL, ANSWER), world.quiz(run))
    shown = next(s for s in done.rows[0].segments if s.origin is Origin.OBSERVATION)
    assert shown.token_ids.tolist() == [266, *b"<|end|></interpreter>", 267]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=80), budget=st.integers(3, 40))
def test_clipping_keeps_within_the_budget(tokenizer: Any, text: str, budget: int):
    clipped = clip_text(text, budget, tokenizer)
    n = len(tokenizer.encode(text))
    if n <= budget:
        assert clipped == text
        return
    assert len(tokenizer.encode(clipped)) <= budget
    room = budget - 3
    normal = tokenizer.decode(tokenizer.encode(text))
    cuts = [i for i in range(len(clipped)) if clipped.startswith("...", i)]
    assert any(
        normal.startswith(clipped[:i]) and normal.endswith(clipped[i + 3 :]) for i in cuts
    )  # dots of the text's own may stand beside those of the cut
    # Characters of up to four bytes are never cut in two.
    assert len(tokenizer.encode(clipped)) >= 3 + room - 6 or "\ufffd" in text


def test_clipping_by_hand(tokenizer: Any):
    """Budget 11: 3 for the dots, 4 each side; a two-byte character does not fit into an odd rest."""
    assert clip_text("0123456789abcdef", 11, tokenizer) == "0123...cdef"
    assert clip_text("0123456789abcdef", 10, tokenizer) == "012...cdef"
    assert clip_text("éééééééé", 11, tokenizer) == "éé...éé"
    assert clip_text("éééééééé", 10, tokenizer) == "é...éé"


async def test_seeds_of_siblings(world: Any):
    """Environment seeds are equal, sampling seeds are H(run, step, task, sibling, turn, branch)."""
    engine = world.turns(CALL, CALL, ANSWER)
    runner = Episodes(world.parts(engine), seed=11)
    ctx = Ctx(step=5, total_steps=9, seed=11)
    first = await runner.run(world.task, 0, ctx)
    seeds = [s.seed for s in engine.samplings]
    await runner.run(world.task, 1, ctx)
    assert seeds == [derive(derive(11, 5, "t", 0), turn, 0) for turn in range(3)]
    assert engine.samplings[3].seed == derive(derive(11, 5, "t", 1), 0, 0)
    assert len({s.seed for s in engine.samplings}) == len(engine.samplings)
    assert world.log.env_seeds == [derive(11, "t", 3)] * 2
    assert (first.uid, first.seed) == ("5/t/0", derive(11, 5, "t", 0))


def test_another_run_or_step_samples_otherwise_but_the_environment_depends_on_the_task(world: Any):
    a, b = Names(1, 0, world.task).seeds(0), Names(1, 1, world.task).seeds(0)
    assert a.env == b.env
    assert a.sampling != b.sampling
    assert Names(1, 0, Task("t", "Q", "4", seed=4)).seeds(0).env != a.env
    other = Names(2, 0, world.task).seeds(0)
    assert (other.env != a.env, other.sampling != a.sampling) == (True, True)
    assert Seeds(1, 2).turn(0) != Seeds(1, 2).turn(1)


async def test_the_engine_is_asked_with_the_protocol_s_stops(world: Any):
    engine = world.turns(ANSWER)
    await world.play(engine, turn_tokens=33)
    asked = engine.samplings[0]
    assert (asked.stop, asked.stop_ids, asked.max_tokens) == (("</code>",), (260,), 33)


@pytest.mark.parametrize("in_flight", [1, 8])
async def test_uids_are_unique_in_a_group(world: Any, in_flight: int):
    from agentrl.points import Services
    from agentrl.rollout.plans.sample import Sample

    runner = Episodes(world.parts(world.turns(ANSWER)), seed=1, in_flight=in_flight)
    group = await Sample(group_size=4).collect(
        world.task, Services(episodes=runner), Ctx(step=2, total_steps=3, seed=1)
    )
    assert [t.uid for t in group.trajectories] == [f"2/t/{i}" for i in range(4)]
    assert [t.sibling for t in group.trajectories] == [0, 1, 2, 3]
    assert group.step == 2


async def test_a_repeated_task_has_seeds_and_uids_of_its_own(world: Any):
    """The environment's seed stays the task's."""
    runner = Episodes(world.parts(world.turns(ANSWER)), seed=1)
    ctx = Ctx(step=2, total_steps=3, seed=1)
    first = await runner.run(world.task, 0, ctx)
    again = await runner.run(world.task, 0, Ctx(step=2, total_steps=3, seed=1, repeat=1))
    assert (first.uid, again.uid) == ("2/t/0", "2/t/0+1")
    assert first.seed != again.seed
    assert len(set(world.log.env_seeds)) == 1
