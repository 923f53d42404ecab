"""The scripted engine keeps the engine contract; ids below are code points (one char, one id)."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from agentrl.engine.base import Engine, Sampling
from agentrl.engine.scripted import Reply, ScriptedEngine, TurnScript
from agentrl.errors import EngineError, UserError


class Chars:
    """A tokenizer whose ids are code points."""

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, token_ids) -> str:
        return "".join(chr(i) for i in token_ids)


def row(text: str) -> np.ndarray:
    return np.array([ord(c) for c in text], np.int32)


def text(generation) -> str:
    return Chars().decode(generation.token_ids.tolist())


async def test_a_function_of_the_row_is_played_with_its_declared_logprobs():
    engine = ScriptedEngine(
        lambda ids, sampling, i: Reply([len(ids), i], logprobs=[-0.5, -0.25], entropies=[0.1, 0.2])
    )
    assert isinstance(engine, Engine)
    first = await engine.generate(row("abc"), Sampling(max_tokens=9, entropies=True))
    second = await engine.generate(row("a"), Sampling(max_tokens=9))
    assert first.token_ids.tolist() == [3, 0]
    assert second.token_ids.tolist() == [1, 1]
    assert first.logprobs.tolist() == [-0.5, -0.25]
    np.testing.assert_allclose(first.entropies, [0.1, 0.2], rtol=1e-6)
    assert second.entropies is None
    assert first.stop == "length"


async def test_stop_strings_ids_and_budgets_cut_the_reply_and_keep_the_stop():
    engine = ScriptedEngine(lambda *_: "go</x>tail", tokenizer=Chars(), end_id=7)
    cut = await engine.generate(row("p"), Sampling(max_tokens=99, stop=("zz", "</x>")))
    assert (text(cut), cut.stop, cut.stop_text) == ("go</x>", "stop_text", "</x>")
    whole = await engine.generate(row("p"), Sampling(max_tokens=99, stop_ids=(7,)))
    assert (text(whole), whole.stop) == ("go</x>tail\x07", "stop_id")
    short = await engine.generate(row("p"), Sampling(max_tokens=4, stop_ids=(7,)))
    assert (text(short), short.stop) == ("go</", "length")


async def test_the_context_limit_ends_a_reply_and_refuses_a_full_row():
    engine = ScriptedEngine(lambda *_: [1, 2, 3, 4], max_context=5)
    assert (await engine.generate(row("abc"), Sampling(max_tokens=9))).token_ids.tolist() == [1, 2]
    with pytest.raises(UserError, match="max_context"):
        await engine.generate(row("abcde"), Sampling(max_tokens=9))


async def test_canned_turns_follow_the_row_whatever_order_episodes_run_in():
    script = TurnScript(
        {"2+2?": ("<c>2+2</c> ignored", "<a>4</a>"), "3+3?": ("<a>6</a>",)}, Chars()
    )
    engine = ScriptedEngine(script, tokenizer=Chars())
    sampling = Sampling(max_tokens=99, stop=("</c>", "</a>"))
    one = await engine.generate(row("Q 2+2?"), sampling)
    other = await engine.generate(row("Q 3+3?"), sampling)
    two = await engine.generate(row("Q 2+2?<c>2+2</c>[4]"), sampling)
    again = await engine.generate(row("Q 2+2?<c>2+2</c>[4]<a>4</a>"), sampling)
    assert [text(g) for g in (one, other, two, again)] == [
        "<c>2+2</c>",
        "<a>6</a>",
        "<a>4</a>",
        "<a>4</a>",
    ]
    with pytest.raises(UserError, match="no turns are canned"):
        await engine.generate(row("Q 9+9?"), sampling)


async def test_speed_is_simulated_per_request_and_requests_overlap():
    engine = ScriptedEngine(lambda *_: [1] * 20, tokens_per_s=100)
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(engine.generate(row("p"), Sampling(max_tokens=20)))
    assert 0.2 <= time.perf_counter() - started < 1.0
    assert engine.statistics().busy_s == pytest.approx(2.0)
    assert engine.statistics().generated_tokens == 200


async def test_an_update_holds_requests_back_and_changes_the_version():
    engine = ScriptedEngine(lambda *_: [1, 2])
    await engine.begin_update(3)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(engine.generate(row("p"), Sampling(max_tokens=5)))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await engine.finish_update()
    assert waiting.result().versions == ((2, 3),)
    assert engine.version == 3
    await engine.close()
    with pytest.raises(EngineError, match="closed"):
        await engine.generate(row("p"), Sampling(max_tokens=5))


async def test_text_needs_a_tokenizer_and_scores_are_the_declared_ones():
    with pytest.raises(UserError, match="tokenizer"):
        await ScriptedEngine(lambda *_: "text").generate(row("p"), Sampling(max_tokens=5))
    engine = ScriptedEngine(lambda *_: [1], logprob=-0.5)
    scored = await engine.score(row("abc"), Sampling(max_tokens=1))
    assert scored.tolist() == [0.0, -0.5, -0.5]
    spoken = ScriptedEngine(lambda *_: "ab", encode=lambda t: [len(t)], end_id=9)
    assert (await spoken.generate(row("p"), Sampling(max_tokens=5))).token_ids.tolist() == [2, 9]
