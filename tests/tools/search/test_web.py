"""The web retriever against a server that answers in Serper's form; kept, paced, replayed, secret."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentrl.errors import SetupError, UserError, WorldFault
from agentrl.retrieval import Hit, Passage
from agentrl.serve.sandbox_server import listen
from agentrl.testing import failures
from agentrl.testing.retriever_kit import check_retriever
from agentrl_tools.search.answers import Answers
from agentrl_tools.search.rate import Rate
from agentrl_tools.search.web import Web, read_organic

KEY = "k3y-that-nobody-may-see"


class Serper:
    """A search service: one result per number asked for, its key and its requests counted."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.status = 200

    async def search(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        if request.headers.get("x-api-key") != KEY:
            return JSONResponse({"message": "Unauthorized."}, 403)
        if self.status != 200:
            return JSONResponse({"message": f"no more credits for {KEY}"}, self.status)
        rows = [
            {"title": f"{body['q']}\n{i}", "link": f"https://x/{i}", "snippet": f"s{i}"}
            for i in range(1, body["num"] + 1)
        ]
        return JSONResponse({"searchParameters": body, "organic": rows, "credits": 1})


@asynccontextmanager
async def serving(serper: Serper) -> AsyncIterator[str]:
    app = Starlette(routes=[Route("/search", serper.search, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    with listen("127.0.0.1", 0) as listening:
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve(sockets=[listening]))
            try:
                yield f"http://127.0.0.1:{listening.getsockname()[1]}/search"
            finally:
                server.should_exit = True


def files(folder: Path) -> list[str]:
    return [path.read_text() for path in folder.iterdir()]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERPER_API_KEY", KEY)


def test_results_are_read_in_serpers_form() -> None:
    rows = [
        {"title": "A \n b", "link": "https://a", "snippet": "s", "position": 1},
        {"title": "no link", "snippet": "s"},
        "no object",
        {"title": "A again", "link": "https://a", "snippet": "t"},
        {"link": "https://c", "title": None},
    ]
    assert read_organic({"organic": rows}, "u") == [
        Hit(Passage("https://a", "A b", "s"), 1.0),
        Hit(Passage("https://c", "", ""), 0.5),
    ]
    assert read_organic({"answerBox": {}}, "u") == []
    for answer in ([], {"organic": {}}, "x"):
        with pytest.raises(WorldFault, match="does not answer as Serper does"):
            read_organic(answer, "u")


async def test_an_answer_is_paid_for_once(tmp_path: Path) -> None:
    """For every k up to ten, by all who ask at once, across processes; then replayed without a net."""
    serper = Serper()
    async with serving(serper) as url:
        web = Web(url=url, cache=str(tmp_path / "c"), per_second=1000)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(web.search(["q one"], k=k)) for k in (1, 2, 3, 3)]
        assert [len(task.result()[0]) for task in tasks] == [1, 2, 3, 3]
        assert serper.asked == [{"q": "q one", "num": 10}]
        assert len((await web.search(["q one"], k=12))[0]) == 12
        assert len(serper.asked) == 2
        again = Web(url=url, cache=str(tmp_path / "c"))
        (hits,) = await again.search(["q one"], k=1)
        assert hits == [Hit(Passage("https://x/1", "q one 1", "s1"), 1.0)]
        assert len(serper.asked) == 2
        for one in (web, again):
            await one.close()
    replay = Web(url=url, cache=str(tmp_path / "c"), replay=True)
    assert await replay.search(["q one", "?!"], k=1) == [hits, []]
    with pytest.raises(WorldFault, match="the cache holds no answer to 'q two'"):
        await replay.search(["q two"], k=1)
    await replay.close()


async def test_the_kit_online_and_replayed(tmp_path: Path) -> None:
    async with serving(Serper()) as url:
        live = await check_retriever(lambda: Web(url=url, per_second=1e6))
        assert failures(live) == []
        cached = str(tmp_path / "c")
        kept = await check_retriever(lambda: Web(url=url, per_second=1e6, cache=cached))
        assert failures(kept) == []


async def test_the_key_is_never_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in logs at the lowest level, errors with their causes, attributes or the cache."""
    told: list[str] = []
    serper = Serper()
    with caplog.at_level(logging.DEBUG):
        async with serving(serper) as url:
            web = Web(url=url, cache=str(tmp_path), retries=0)
            await web.search(["fine"], k=1)
            for status, kind in ((400, WorldFault), (500, WorldFault), (429, WorldFault)):
                serper.status = status
                with pytest.raises(kind) as caught:
                    await web.search([f"q {status}"], k=1)
                told.append(f"{caught.value!r} {caught.value.__cause__!r}")
            monkeypatch.setenv("SERPER_API_KEY", KEY + "x")
            with pytest.raises(SetupError, match=r"refused the key in \$SERPER_API_KEY"):
                await web.search(["q wrong"], k=1)
            monkeypatch.delenv("SERPER_API_KEY")
            with pytest.raises(SetupError, match=r"needs a key: set \$SERPER_API_KEY"):
                await web.search(["q none"], k=1)
            await web.close()
    told += [record.getMessage() for record in caplog.records]
    told += [str(vars(web)), str(vars(web._wire))]
    kept = files(tmp_path)
    assert len(kept) == 1
    told += kept
    assert any("status 500" in text and "***" in text for text in told)
    assert not [text for text in told if KEY in text]


def test_requests_are_spaced_evenly() -> None:
    """Four a second: a burst at 10.0 leaves at 10.0, 10.25, 10.5; a late one at once."""
    clock = [10.0]
    rate = Rate(4, now=lambda: clock[0])
    assert [rate.wait_s() for _ in range(3)] == [0.0, 0.25, 0.5]
    clock[0] = 10.6
    assert rate.wait_s() == pytest.approx(0.15)
    clock[0] = 20.0
    assert [rate.wait_s() for _ in range(2)] == [0.0, 0.25]


async def test_the_rate_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    real_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waits.append(round(seconds))
        await real_sleep(0)

    async with serving(Serper()) as url:
        web = Web(url=url, per_second=0.01)
        monkeypatch.setattr("agentrl_tools.search.web.asyncio.sleep", sleep)
        await web.search(["a", "b", "c"], k=1)
        monkeypatch.undo()
        await web.close()
    assert [wait for wait in waits if wait > 50] == [100, 200]


def test_the_cache_survives_damage(tmp_path: Path) -> None:
    answers = Answers(tmp_path)
    asked = {"url": "u", "q": "x \ud800", "num": 10}
    assert answers.get(asked) is None
    answers.put(asked, {"organic": []})
    assert answers.get(asked) == {"organic": []}
    for damage in ("", "{", "[]", '{"asked": {"q": "other"}, "answer": 1}'):
        answers.path(asked).write_text(damage)
        assert answers.get(asked) is None
    assert [path.name for path in tmp_path.iterdir()] == [answers.path(asked).name]
    assert json.loads(answers.path(asked).read_text())["answer"] == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Answers(tmp_path / "file")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "google.serper.dev"}, "must begin with http"),
        ({"per_second": 0}, "per_second and timeout_s must be positive"),
        ({"retries": -1}, "retries not negative"),
        ({"replay": True}, "set cache=<folder>"),
        ({"replay": True, "cache": "/no/such/folder"}, "record one first"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Web(**options)
