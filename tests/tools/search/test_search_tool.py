"""The search tool: what the model reads, within which budget, and who shares an index."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from agentrl import registry
from agentrl.chat.protocols.search_r1 import SearchR1
from agentrl.config import Plugin
from agentrl.context import Context
from agentrl.errors import DeadlineExceeded, UserError, WorldFault
from agentrl.plugins import build
from agentrl.retrieval import Hit, Passage, contents_of
from agentrl.testing import check_tool, failures
from agentrl.tool import call_tool
from agentrl.transcript import ids_array
from agentrl.types import Message, ToolCall, ToolResult
from agentrl_envs.tool_env import ToolEnv
from agentrl_tools.search import tool
from agentrl_tools.search.named import close_all
from agentrl_tools.search.shown import NOTHING, fair_shares, shown
from agentrl_tools.search.tool import SearchTool


class Scripted:
    """Answers every query with the same hits, after a while, or with an error."""

    def __init__(
        self, hits: Sequence[Hit] = (), *, after_s: float = 0, error: Exception | None = None
    ) -> None:
        self.hits, self.after_s, self.error = list(hits), after_s, error
        self.asked: list[str] = []
        self.closed = self.idled = 0

    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        self.asked += queries
        await asyncio.sleep(self.after_s)
        if self.error is not None:
            raise self.error
        return [self.hits[:k] for _ in queries]

    async def idle(self) -> None:
        self.idled += 1

    async def close(self) -> None:
        self.closed += 1


@pytest_asyncio.fixture(autouse=True)
async def forgotten() -> AsyncIterator[None]:
    """No retriever outlives its test."""
    yield
    await close_all()


def hit(title: str, text: str) -> Hit:
    return Hit(Passage(title or text, title, text), 1.0)


async def call(search: SearchTool, query: str) -> ToolResult:
    return await call_tool({"search": search}, ToolCall("c", "search", {"query": query}), Context())


def test_passages_read_as_in_search_r1() -> None:
    """Beside Search-R1's own three lines: title up to the first line break, then the rest."""
    hits = [hit("Evan Morris", "Evan L. Morris was a lobbyist."), hit("A", "two\nlines")]
    want = ""
    for number, one in enumerate(hits, 1):
        title, _, text = contents_of(one.passage).partition("\n")
        want += f"Doc {number}(Title: {title}) {text}\n"
    assert shown(hits, 1000) == (want.strip(), False)
    assert want.startswith('Doc 1(Title: "Evan Morris") Evan L. Morris was a lobbyist.\nDoc 2')
    assert shown([hit("", "bare")], 1000).text == "Doc 1 bare"
    assert shown([], 1000) == (NOTHING, False)


def test_a_budget_is_shared_fairly() -> None:
    assert fair_shares([10, 100, 70], 120) == [10, 55, 55]
    assert fair_shares([5, 5], 20) == [5, 5]
    assert fair_shares([9, 9], -1) == [0, 0]
    hits = [hit("T", "a" * 100), hit("U", "b" * 4)]
    got = shown(hits, 62)
    assert got.text == 'Doc 1(Title: "T") ' + "a" * 18 + '...\nDoc 2(Title: "U") bbbb'
    assert (len(got.text), got.truncated) == (62, True)


@given(st.lists(st.text(max_size=40), max_size=6), st.integers(1, 300))
def test_no_budget_is_overrun(texts: list[str], max_chars: int) -> None:
    got = shown([hit("T", text) for text in texts], max_chars)
    whole = shown([hit("T", text) for text in texts], 10_000)
    assert got.truncated == (texts != [] and len(whole.text) > max_chars)
    assert got == whole if not got.truncated else len(got.text) <= max_chars
    sizes = [len(text) for text in texts]
    shares = fair_shares(sizes, max_chars)
    assert sum(shares) == min(sum(sizes), max_chars) or sum(shares) > max_chars - len(texts)


async def test_the_kit_and_the_starter_corpus(caplog: pytest.LogCaptureFixture) -> None:
    tool._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, "agentrl"):
        results = await check_tool(SearchTool, arguments={"query": "capital on the Danube"})
    assert failures(results) == []
    assert len(results) == 12
    assert sum("no corpus is set" in r.message for r in caplog.records) == 1
    search = SearchTool(k=1)
    await search.open(Context())
    told = await call(search, "liquid metal chemical element")
    assert told.content.startswith('Doc 1(Title: "Mercury (element)") Mercury is the chemical')
    assert (await call(search, "zzyzx 🎉")).content == NOTHING
    assert (await call(search, " \n")).error == "execution"
    await search.close()


async def test_options_reach_the_retriever(corpus_file: Callable[..., Path]) -> None:
    path = corpus_file([Passage(str(i), f"T{i}", "same words") for i in range(5)])
    node = {"name": "search", "corpus": str(path), "k": 2, "options": {"threads": 2}}
    search = build("tool", Plugin.model_validate(node))
    await search.open(Context())
    told = await call(search, "words")
    assert told.content == 'Doc 1(Title: "T0") same words\nDoc 2(Title: "T1") same words'
    await search.close()
    with pytest.raises(UserError, match="did you mean 'fts5'"):
        SearchTool(retriever="fts")
    with pytest.raises(UserError, match=r"unknown key 'retriever\.thread'"):
        await SearchTool(options={"thread": 2}).open(Context())
    with pytest.raises(UserError, match="there is no corpus"):
        await SearchTool(corpus=str(path) + "x").open(Context())
    with pytest.raises(ValueError, match="k, max_chars, timeout_s > 0"):
        SearchTool(k=0)


async def test_episodes_share_one_retriever(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Scripted] = []

    def slow(size: int = 1) -> Scripted:
        made.append(Scripted([hit("T", "x")]))
        return made[-1]

    monkeypatch.setitem(registry._registered, ("retriever", "slow_one"), slow)
    tools = [SearchTool(retriever="slow_one") for _ in range(20)]
    async with asyncio.TaskGroup() as group:
        for search in tools:
            group.create_task(search.open(Context()))
    assert len(made) == 1
    tools += await tools[0].fork(3)
    for search in tools[20:]:
        await search.open(Context())
    other = SearchTool(retriever="slow_one", options={"size": 2})
    await other.open(Context())
    assert len(made) == 2
    for search in tools:
        assert (await call(search, "x")).content == 'Doc 1(Title: "T") x'
        assert made[0].idled == 0
        await search.close()
        await search.close()
    assert (made[0].idled, made[0].closed) == (1, 0)
    await other.close()
    await close_all()
    assert [one.closed for one in made] == [1, 1]


async def test_a_failed_retriever_is_tried_anew_and_a_cancelled_wait_harms_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release, tries = threading.Event(), []

    def moody() -> Scripted:
        tries.append(release.wait(60))
        if len(tries) == 1:
            raise UserError("not yet")
        return Scripted([hit("", "x")])

    monkeypatch.setitem(registry._registered, ("retriever", "moody_one"), moody)
    tools = [SearchTool(retriever="moody_one") for _ in range(4)]
    waiting = [asyncio.ensure_future(search.open(Context())) for search in tools]
    await asyncio.sleep(0.05)
    waiting[0].cancel()
    release.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] + [UserError] * 3
    for search in tools:
        await search.close()
        await search.open(Context())
        assert (await call(search, "x")).content == "Doc 1 x"
    assert len(tries) == 2
    for search in tools:
        await search.close()


async def test_a_retriever_of_ones_own_is_not_closed() -> None:
    own = Scripted([hit("", "x")])
    search = SearchTool(retriever=own)
    await search.open(Context())
    (copy,) = await search.fork(1)
    await search.close()
    with pytest.raises(RuntimeError, match=r"open\(\) the search tool"):
        await copy(query="x")
    await copy.open(Context())
    assert (await call(copy, "x")).content == "Doc 1 x"
    await copy.close()
    assert (own.closed, own.idled) == (0, 0)


async def test_a_silent_or_broken_retriever_is_the_worlds_fault() -> None:
    """Neither becomes an observation, nor a reward."""
    silent = SearchTool(retriever=Scripted(after_s=60), timeout_s=0.05)
    await silent.open(Context())
    with pytest.raises(DeadlineExceeded, match=r"no answer to a search within 0\.05 s"):
        await call(silent, "x")
    await silent.open(Context(deadline=monotonic() - 1))
    with pytest.raises(DeadlineExceeded):
        await call(silent, "x")
    broken = SearchTool(retriever=Scripted(error=WorldFault("the index is gone")))
    await broken.open(Context())
    with pytest.raises(WorldFault, match="the index is gone"):
        await call(broken, "x")


async def test_calls_of_one_turn_run_side_by_side() -> None:
    """Through ToolEnv, and both calls answered in the order asked."""

    class Ask(ToolEnv):
        def first_messages(self, task: Any) -> Any:
            return ()

        async def judge(self, action: Any) -> Any:
            raise AssertionError

        def tasks(self, split: str, *, seed: int) -> Any:
            raise AssertionError

    class Meeting(Scripted):
        """Answers nobody before two have asked."""

        def __init__(self) -> None:
            super().__init__()
            self.both = asyncio.Event()

        async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
            self.asked += queries
            if len(self.asked) == 2:
                self.both.set()
            await self.both.wait()
            return [[hit("", query)] for query in queries]

    env = Ask([SearchTool(retriever=Meeting())])
    await env.open(Context())
    result = await env._dispatch(
        [ToolCall(f"c{i}", "search", {"query": f"q{i}"}) for i in range(2)]
    )
    assert [message.content for message in result.observation] == ["Doc 1 q0", "Doc 1 q1"]
    await env.close()


async def test_what_a_model_writes_comes_back_between_its_tags() -> None:
    """Search-R1's protocol around the tool: query out of the tags, passages into them."""
    protocol = SearchR1()
    text = "I lack this. <search> smallest planet </search>"
    action = protocol.parse(ids_array([]), text, turn=0)
    search = SearchTool(k=1)
    await search.open(Context())
    result = await call_tool({"search": search}, action.tool_calls[0], Context())
    presented: Any = protocol.present((Message("tool", result.content),), text=text)
    assert presented.text == (
        '\n\n<information>Doc 1(Title: "Mercury") Mercury is the smallest planet of the Solar System '
        "and the closest to the Sun. A year there lasts 88 Earth days.</information>\n\n"
    )
    await search.close()


def test_the_schema_is_one_query() -> None:
    schema = json.loads(json.dumps(SearchTool().schema))
    assert schema["required"] == ["query"]
    assert "3 passages" in SearchTool().description
