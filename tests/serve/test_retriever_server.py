"""The retriever server: by hand, by agentrl's own client, and by the clients of verl and SkyRL.

pip install --no-deps --target peers verl==0.7.0 skyrl-gym==0.4.0
AGENTRL_PEERS=peers pytest tests/serve/test_retriever_server.py
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentrl.config import Plugin
from agentrl.errors import SetupError, UserError, WorldFault
from agentrl.retrieval import Hit, Passage
from agentrl.serve.door import Door
from agentrl.serve.retriever import TOKEN_ENV, serve, server_of
from agentrl.serve.sandbox_server import listen
from agentrl.testing import failures
from agentrl.testing.retriever_kit import TOPICS, check_retriever
from agentrl_tools.search.fts5 import Fts5
from agentrl_tools.search.remote import Remote, read_result

PASSAGES = [
    Passage("v", "Vienna", "Vienna lies on the Danube."),
    Passage("b", "Budapest", "Budapest lies on the Danube,\nand has two halves."),
    *(Passage(f"x{i}", "", f"filler {i}") for i in range(9)),
]
VIENNA = {"id": "v", "contents": '"Vienna"\nVienna lies on the Danube.'}
BUDAPEST = {"id": "b", "contents": '"Budapest"\nBudapest lies on the Danube,\nand has two halves.'}


@asynccontextmanager
async def served(retriever: Any, **options: Any) -> AsyncIterator[str]:
    """The address of a server over a retriever."""
    with listen("127.0.0.1", 0) as listening:
        server = server_of(retriever, **options)
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve(sockets=[listening]))
            try:
                yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            finally:
                server.should_exit = True


async def post(url: str, body: Any, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=60) as client:
        if isinstance(body, bytes):
            return await client.post(f"{url}/retrieve", content=body, headers=headers)
        return await client.post(f"{url}/retrieve", json=body, headers=headers)


async def test_answers_are_search_r1s() -> None:
    """With scores a document and its score, without them the bare documents."""
    async with served(Fts5(passages=PASSAGES)) as url:
        asked = {"queries": ["two halves Danube", "nothing like it"], "topk": 2}
        plain = (await post(url, asked)).json()
        assert plain == {"result": [[BUDAPEST, VIENNA], []]}
        scored = (await post(url, asked | {"return_scores": True})).json()
        assert [item["document"] for item in scored["result"][0]] == [BUDAPEST, VIENNA]
        first, second = (item["score"] for item in scored["result"][0])
        assert first > second > 0
        assert all(set(item) == {"document", "score"} for item in scored["result"][0])
        assert scored["result"][1] == []
        one = (await post(url, {"query": "Budapest"})).json()
        assert one == {"result": [[BUDAPEST]]}
        assert (await post(url, {"queries": []})).json() == {"result": []}
        nulls = {"queries": ["filler"], "topk": None}
        assert len((await post(url, nulls)).json()["result"][0]) == 3
        hello = await asyncio.to_thread(httpx.get, url)
        assert hello.json()["retriever"] == "Fts5"


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"queries": "x"}, 422, "`queries` must be a list of strings"),
        ({"queries": ["x", 3]}, 422, "`queries` must be a list of strings"),
        ({"query": ["x"]}, 422, "`queries` must be a list of strings"),
        ({}, 422, "`queries` must be a list of strings"),
        ({"queries": ["x"], "topk": 0}, 422, "`topk` must be a whole number from 1 to 1000"),
        ({"queries": ["x"], "topk": True}, 422, "`topk` must be a whole number"),
        ({"queries": ["x"], "topk": 2.5}, 422, "`topk` must be a whole number"),
        ({"queries": ["x"], "topk": 10**9}, 422, "`topk` must be a whole number"),
        ({"queries": ["x"], "return_scores": "no"}, 422, "`return_scores` must be true or false"),
        (["x"], 422, "the body must be a JSON object"),
        (b"queries=x", 415, "the body must be application/json"),
    ],
)
async def test_bad_requests_are_told_what_is_wrong(body: Any, status: int, told: str) -> None:
    async with served(Fts5(passages=PASSAGES)) as url:
        answer = await post(url, body)
        assert (answer.status_code, told in answer.json()["detail"]) == (status, True)
        broken = await post(url, b'{"queries": [', **{"content-type": "application/json"})
        assert broken.status_code == 422
        assert (await asyncio.to_thread(httpx.get, f"{url}/retrieve")).status_code == 405


async def test_any_text_arrives() -> None:
    async with served(Fts5(passages=PASSAGES)) as url:
        body = json.dumps({"queries": ['"Vienna\0 \ud800 OR (']}).encode()
        answer = await post(url, body, **{"content-type": "application/json"})
        assert answer.json() == {"result": [[VIENNA]]}


async def test_the_token_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(Fts5(passages=PASSAGES), token="s3cret-x") as url:
        refused = await post(url, {"queries": ["Vienna"]})
        assert (refused.status_code, "token" in refused.json()["error"]) == (401, True)
        wrong = await post(url, {"queries": ["Vienna"]}, Authorization="Bearer s3cret-y")
        assert wrong.status_code == 401
        remote = Remote(url=f"{url}/retrieve", retries=0)
        monkeypatch.delenv(TOKEN_ENV, raising=False)
        with pytest.raises(SetupError, match=f"set \\${TOKEN_ENV}"):
            await remote.search(["Vienna"], k=1)
        monkeypatch.setenv(TOKEN_ENV, "s3cret-x")
        assert (await remote.search(["Vienna"], k=1))[0][0].passage == PASSAGES[0]
        await remote.close()


async def test_only_this_machines_names_are_answered() -> None:
    """A web page that makes its own name point here gets nothing."""
    hosts = Door("127.0.0.1", None).hosts
    async with served(Fts5(passages=PASSAGES), hosts=hosts) as url:
        assert (await post(url, {"queries": ["Vienna"]})).status_code == 200
        answer = await post(url, {"queries": ["Vienna"]}, Host="evil.example")
        assert answer.status_code == 400


def test_who_may_listen_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_ENV, raising=False)
    said: list[str] = []
    node = Plugin.model_validate({"name": "fts5", "corpus": "absent.jsonl"})
    with pytest.raises(
        UserError, match=rf"set \${TOKEN_ENV} to a secret .* or say --allow-no-token"
    ):
        serve(node, host="0.0.0.0", port=0, announce=said.append)
    assert said == []
    with pytest.raises(UserError, match="there is no corpus"):
        serve(node, host="0.0.0.0", port=0, allow_no_token=True, announce=said.append)
    monkeypatch.setenv(TOKEN_ENV, "s")
    with pytest.raises(UserError, match="there is no corpus"):
        serve(node, host="0.0.0.0", port=0, announce=said.append)
    assert said == ["opening fts5"] * 2
    with pytest.raises(UserError, match="topk must be at least 1"):
        serve(node, topk=0)


class Faulty:
    """Fails a few times before it answers."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.closed = 0

    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        self.failures -= 1
        if self.failures >= 0:
            raise WorldFault("the index is being moved")
        return [[Hit(PASSAGES[0], 1.0)] for _ in queries]

    async def close(self) -> None:
        self.closed += 1


async def test_the_worlds_fault_is_503_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    real_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await real_sleep(0)

    faulty = Faulty(3)
    async with served(faulty) as url:
        answer = await post(url, {"queries": ["x"]})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json() == {"detail": "the index is being moved"}
        monkeypatch.setattr("agentrl_tools.search.wire.asyncio.sleep", sleep)
        remote = Remote(url=f"{url}/retrieve", retries=2)
        assert (await remote.search(["x"], k=1))[0][0].passage.id == "v"
        waits = [seconds for seconds in slept if seconds >= 0.4]
        assert waits == [0.5, 1.0]
        faulty.failures = 9
        with pytest.raises(WorldFault, match=r"cannot be reached: status 503: .*being moved"):
            await remote.search(["x"], k=1)
        monkeypatch.undo()
        await remote.close()
    assert faulty.closed == 1


async def test_nobody_listens() -> None:
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
    remote = Remote(url=f"http://127.0.0.1:{port}/retrieve", retries=0)
    with pytest.raises(WorldFault, match=f"127.0.0.1:{port}/retrieve cannot be reached"):
        await remote.search(["x"], k=1)
    await remote.close()
    with pytest.raises(UserError, match="must begin with http"):
        Remote(url="localhost:8000")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ([], 'no "result"'),
        ({"results": []}, 'no "result"'),
        ({"result": [{"id": 1}]}, "holds a list per query"),
        ({"result": [["x"]]}, "a hit must be an object"),
        ({"result": [[{"document": "x", "score": 1}]]}, "a hit must be an object"),
        ({"result": [[{"document": {"contents": "x"}}]]}, 'needs "id" and "contents"'),
        ({"result": [[{"id": 3, "contents": None}]]}, 'needs "id" and "contents"'),
    ],
)
def test_a_stranger_that_speaks_otherwise(answer: Any, told: str) -> None:
    with pytest.raises(WorldFault, match=told):
        read_result(answer, "http://x")


def test_a_stranger_that_speaks_almost_so() -> None:
    """Without scores (ranks stand in), with the title apart, with numbers as ids."""
    answer = [{"id": 3, "title": "T", "text": "x"}, {"id": "4", "contents": "Bare\ny"}]
    assert read_result({"result": [answer]}, "u") == [
        [Hit(Passage("3", "T", "x"), 1.0), Hit(Passage("4", "Bare", "y"), 0.5)]
    ]


async def test_the_client_passes_the_kit_against_our_server() -> None:
    async with served(Fts5(passages=TOPICS)) as url:
        results = await check_retriever(lambda: Remote(url=f"{url}/retrieve"))
        assert len(results) == 13
        assert failures(results) == []
        remote, local = Remote(url=f"{url}/retrieve"), Fts5(passages=TOPICS)
        queries = [passage.text for passage in TOPICS]
        assert await remote.search(queries, k=4) == await local.search(queries, k=4)
        await remote.close()
        await local.close()


def peer(package: str) -> Path:
    """The folder of another project's package, found without importing it; skips where it is absent."""
    beside = Path(os.environ.get("AGENTRL_PEERS", "peers")) / package
    if beside.is_dir():
        return beside.absolute()
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed; see the top of this file")
    return Path(found.origin).parent


def own_file(path: Path) -> Any:
    """A module of another project, without the packages around it, which want much more."""
    if not path.is_file():
        pytest.skip(f"this version has no {path.name}; see the top of this file")
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_verls_own_client() -> None:
    """verl's Search-R1 tool: a batch of queries with scores, shown as verl shows them."""
    verl = own_file(peer("verl") / "tools/utils/search_r1_like_utils.py")
    async with served(Fts5(passages=PASSAGES)) as url:
        text, about = await asyncio.to_thread(
            verl.perform_single_search_batch, f"{url}/retrieve", ["two halves Danube", "Vienna"], 2
        )
        nothing, about_nothing = await asyncio.to_thread(
            verl.perform_single_search_batch, f"{url}/retrieve", ["zzyzx"], 2
        )
    assert (about["status"], about["total_results"]) == ("success", 3)
    assert json.loads(text)["result"] == (
        'Doc 1 (Title: "Budapest")\nBudapest lies on the Danube,\nand has two halves.\n\n'
        'Doc 2 (Title: "Vienna")\nVienna lies on the Danube.\n---\n'
        'Doc 1 (Title: "Vienna")\nVienna lies on the Danube.'
    )
    assert (about_nothing["api_request_error"], about_nothing["total_results"]) == (None, 0)
    assert json.loads(nothing) == {"result": ""}


@contextmanager
def on_path(folder: Path) -> Iterator[None]:
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


async def test_skyrls_own_client() -> None:
    """SkyRL's search tool asks one query at a time, in a field of its own name."""
    with on_path(peer("skyrl_gym").parent):
        search = pytest.importorskip("skyrl_gym.tools.search")
    async with served(Fts5(passages=PASSAGES)) as url:
        group = search.SearchToolGroup(search_url=f"{url}/retrieve", topk=2, log_requests=False)
        found = await asyncio.to_thread(group.search, " Danube two halves ")
        group.session.close()
    assert json.loads(found)["result"] == (
        'Doc 1: "Budapest"\nBudapest lies on the Danube,\nand has two halves.\n'
        'Doc 2: "Vienna"\nVienna lies on the Danube.\n'
    )


def test_the_command_serves_and_ends(tmp_path: Path) -> None:
    """`agentrl serve retriever` on a free port, asked once, ended by SIGTERM."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in (VIENNA, BUDAPEST)))
    command = [
        sys.executable,
        "-m",
        "agentrl.cli",
        "serve",
        "retriever",
        str(corpus),
        "--port",
        "0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "opening fts5\n"
        said = re.fullmatch(
            r"retriever at (http://127\.0\.0\.1:\d+/retrieve)\n", process.stdout.readline()
        )
        assert said is not None
        answer = httpx.post(said[1], json={"queries": ["halves"]}, timeout=60)
        assert answer.json() == {"result": [[BUDAPEST]]}
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
