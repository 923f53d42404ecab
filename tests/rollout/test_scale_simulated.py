"""The simulated engine and the virtual clock, against numbers worked out by hand; the bench itself."""

from __future__ import annotations

import asyncio
import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.chat.nano import NanoRenderer
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.cli.main import run
from agentrl.engine.simulated import BatchedPace, Latency
from agentrl.errors import EngineError, UserError
from agentrl.model_path import model_path
from agentrl.registry import resolve
from agentrl.testing.rollout_bench import Lengths, Load, jain, study
from agentrl.testing.virtual_time import run_virtually

STEP = Latency(step_ms=1000.0, row_ms=0.0, prefill_ms=0.0, max_batch=2, kv_tokens=100)
"""A second a step, two at a time."""


def ends(latency: Latency, *requests: tuple[float, int, int]) -> tuple[list[float], BatchedPace]:
    """When requests `(asked at, prompt, new)` end."""
    pace = BatchedPace(latency)

    async def one(at: float, n_prompt: int, n_new: int) -> float:
        await asyncio.sleep(at)
        await pace.spend(n_prompt, n_new)
        return asyncio.get_running_loop().time()

    async def all_of_them() -> list[float]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(*request)) for request in requests]
        return [task.result() for task in tasks]

    return run_virtually(all_of_them()), pace


def test_virtual_time_takes_no_time():
    async def sleepers() -> float:
        async with asyncio.TaskGroup() as group:
            for n in range(100):
                group.create_task(asyncio.sleep(n * 1000))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5000):
                await asyncio.sleep(6000)
        return asyncio.get_running_loop().time()

    started = time.monotonic()
    assert run_virtually(sleepers()) == pytest.approx(99_000 + 5000)
    assert time.monotonic() - started < 60


def test_a_program_that_would_hang_says_so():
    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="would hang"):
        run_virtually(hang())


def test_two_at_a_time():
    """3 and 5 steps together; the third starts when the first has ended, at 3, and takes 2."""
    found, pace = ends(STEP, (0, 1, 3), (0, 1, 5), (0, 1, 2))
    assert found == [3.0, 5.0, 5.0]
    statistics = pace.statistics()
    assert (statistics.generated_tokens, statistics.busy_s, statistics.kv_used) == (10, 5.0, 0.0)


def test_who_comes_in_the_middle_of_a_step_joins_at_the_next():
    """Asked at 1.5: runs from 2 to 4; the one that came first is not disturbed."""
    assert ends(STEP, (0, 1, 5), (1.5, 1, 2))[0] == [5.0, 4.0]


def test_a_step_costs_by_the_rows_in_it_and_prompts_by_their_length():
    """Steps of 1 + 0.5 n: one row from 0 (prefill 10 x 0.1) to 1 + 1.5 = 2.5, then two rows.

    The second asks at 1.2, joins at 2.5 with a prefill of 2; two steps of 2 s follow: 8.5.
    """
    latency = Latency(1000.0, 500.0, 100_000.0, max_batch=8, kv_tokens=1000)
    found, pace = ends(latency, (0, 10, 3), (1.2, 20, 2))
    assert found == [8.5, 8.5]
    assert pace.statistics().busy_s == 8.5
    assert pace.statistics().prefill_tokens == 30


def test_the_newest_is_set_back_when_the_cache_is_full_and_computes_again():
    """Room for 20: 5 + 5 prompt tokens and 5 steps of two rows fill it at 5.

    The second goes back with 5 sampled. The first ends at 10, alone; the second comes back with a
    prompt of 10 and 5 to go: 15.
    """
    latency = Latency(1000.0, 0.0, 0.0, max_batch=4, kv_tokens=20)
    found, pace = ends(latency, (0, 5, 10), (0, 5, 10))
    assert found == [10.0, 15.0]
    statistics = pace.statistics()
    assert (statistics.preemptions, statistics.generated_tokens) == (1, 20)
    assert statistics.prefill_tokens == 20


def test_what_never_fits_is_refused():
    with pytest.raises(ExceptionGroup) as raised:
        ends(STEP, (0, 99, 2))
    assert isinstance(raised.value.exceptions[0], EngineError)


def test_a_cancelled_request_gives_its_place_back():
    """Cancelled at 2.5 of 9 steps: the waiting one runs from then on."""
    pace = BatchedPace(Latency(1000.0, 0.0, 0.0, max_batch=1, kv_tokens=100))

    async def work() -> float:
        first = asyncio.ensure_future(pace.spend(1, 9))
        await asyncio.sleep(0.1)
        second = asyncio.ensure_future(pace.spend(1, 2))
        await asyncio.sleep(2.4)
        first.cancel()
        await second
        return asyncio.get_running_loop().time()

    assert run_virtually(work()) == pytest.approx(4.5)
    assert pace.statistics().kv_used == 0.0


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.floats(0, 20), st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=12
    ),
    st.integers(1, 4),
    st.integers(24, 60),
)
def test_every_request_is_served_whole(
    requests: list[tuple[float, int, int]], max_batch: int, kv_tokens: int
):
    """None is faster than alone, all tokens are counted once, and the cache is empty at the end."""
    latency = Latency(1000.0, 100.0, 0.0, max_batch, kv_tokens)
    found, pace = ends(latency, *requests)
    for (at, _, n_new), end in zip(requests, found, strict=True):
        assert end - at >= n_new * latency.step_s(1) - 1e-6
    statistics = pace.statistics()
    assert statistics.generated_tokens == sum(n for _, _, n in requests)
    assert (statistics.kv_used, statistics.running, statistics.waiting) == (0.0, 0, 0)


def test_jain_s_index_by_hand():
    assert jain(np.array([2.0, 2.0, 2.0])) == 1.0
    assert jain(np.array([1.0, 0.0, 0.0, 0.0])) == 0.25
    assert jain(np.array([1.0, 3.0])) == pytest.approx(16 / 20)


def test_lengths_have_the_mean_they_are_given():
    drawn = [Lengths(100.0, 0.8).draw(seed) for seed in range(4000)]
    assert np.mean(drawn) == pytest.approx(100.0, rel=0.05)
    assert np.median(drawn) == pytest.approx(100.0 * np.exp(-0.32), rel=0.05)
    assert Lengths(7.0, 0.0).draw(3) == 7.0


EVEN = Load(
    latency=Latency(10.0, 0.0, 0.0, max_batch=1000, kv_tokens=1 << 20),
    calls=2, turn_tokens=Lengths(50.0, 0.0), tool_s=Lengths(0.5, 0.0),
)  # fmt: skip


def test_a_load_by_hand():
    """Three turns of 50 tokens, the answer 51: 1.51 s, and two tools of 0.5 s; nobody waits."""
    level = study(EVEN, 16, 16)
    assert level.wall_s == pytest.approx(2.5, abs=0.05)
    assert level.slowdown == pytest.approx(1.0, abs=0.03)
    assert level.jain == pytest.approx(1.0, abs=1e-3)
    assert (level.failed, level.preemptions) == (0, 0)
    assert level.tokens_per_s * level.wall_s == pytest.approx(16 * 150, abs=32)


def test_half_of_them_at_a_time_take_twice_as_long():
    assert study(EVEN, 8, 16).wall_s == pytest.approx(2 * study(EVEN, 16, 16).wall_s, rel=0.03)


def test_faults_are_retried_in_the_bench_too():
    load = Load(calls=1, fault_rate=0.5)
    level = study(load, 64, 64)
    assert 0 < level.failed < 24, "0.5 ** 3 of 64 on average"
    again = study(load, 64, 64)
    assert (again.failed, again.wall_s, again.jain) == (level.failed, level.wall_s, level.jain)


def test_following_the_cache_sets_fewer_requests_back():
    """The engine holds a third of what is asked of it."""
    tight = Latency(10.0, 0.1, 20.0, max_batch=256, kv_tokens=12_000)
    load = Load(latency=tight, turn_tokens=Lengths(100.0, 0.5))
    fixed = study(Load(latency=tight, turn_tokens=load.turn_tokens, adaptive=False), 256, 256)
    adaptive = study(load, 256, 256)
    assert fixed.preemptions > 0
    assert adaptive.preemptions < 0.7 * fixed.preemptions
    assert adaptive.wall_s < 1.1 * fixed.wall_s


def test_a_thousand_at_once_finish_fairly():
    level = study(Load(), 1024, 1024)
    assert (level.failed, level.episodes) == (0, 1024)
    assert level.jain > 0.85
    assert level.worst_slowdown < 5 * level.slowdown


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path):
    out = tmp_path / "found.json"
    words = ["bench", "rollout", "-c", "8", "-c", "16", "--episodes", "16", "--calls", "1"]
    assert run([*words, "--out", str(out)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 3
    assert table[1].split()[:2] == ["8", "16"]
    assert table[1].split()[3] == "1.00", "the first level is the measure"
    assert run([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [level["concurrent"] for level in told["levels"]] == [8, 16]
    assert told["load"]["calls"] == 1
    assert json.loads(out.read_text())["schema_version"] == 1


def test_bad_input_of_the_command(capsys: pytest.CaptureFixture[str]):
    assert run(["bench", "rollout", "--step-ms", "-1", "-c", "8"]) == 2
    assert "not negative" in capsys.readouterr().err
    assert run(["bench", "rollout", "-c", "8", "--episodes", "8", "--kv-tokens", "100"]) == 2
    assert "more kv_tokens" in capsys.readouterr().err
    assert run(["bench", "rolout"]) == 2
    assert "rollout" in capsys.readouterr().err
    with pytest.raises(UserError, match="multiple of 8"):
        study(EVEN, 4, 9)


def test_it_is_found_by_name_and_checks_its_options():
    make = resolve("engine", "simulated")
    folder = model_path("nano")
    tokenizer = load_tokenizer(folder)
    host = {"tokenizer": tokenizer, "renderer": NanoRenderer(tokenizer), "tasks": ()}
    made = make(script="gsm8k_annotations", **host)
    assert made.statistics().kv_used == 0.0
    with pytest.raises(UserError, match="at least 1"):
        make(script="gsm8k_annotations", kv_tokens=0, **host)
