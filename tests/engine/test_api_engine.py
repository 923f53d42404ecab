"""The engine `api`: rows read back as messages, stops found in the stream, servers that misbehave."""

# ruff: noqa: SIM117  a server, and an engine that uses it; files of a test
from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentrl.chat.base import Renderer
from agentrl.chat.nano import NanoRenderer, build_nano_tokenizer
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.compose import compose
from agentrl.engine.api import endpoint
from agentrl.engine.api.conversation import conversation_of
from agentrl.engine.api.engine import GO_ON, TEXT, ApiEngine
from agentrl.engine.base import Sampling
from agentrl.errors import EngineError, SetupError, UserError
from agentrl.serve.gateway.server import listening
from agentrl.train.run import evaluate
from agentrl.trajectory_json import from_line
from agentrl.transcript import ids_array
from agentrl.types import Message

Handler = Callable[[Any, int], Response]


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    folder = tmp_path_factory.mktemp("nano")
    build_nano_tokenizer(folder)
    return NanoRenderer(load_tokenizer(folder))


@dataclass
class Seen:
    """What a server was sent."""

    bodies: list[Any] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[tuple[str, Seen]]:
    """An endpoint that answers as the test says."""
    seen = Seen()

    async def answer(request: Request) -> Response:
        body = await request.json()
        seen.bodies.append(body)
        seen.headers.append(request.headers)
        seen.paths.append(request.url.path)
        return handler(body, len(seen.bodies) - 1)

    app = Starlette(routes=[Route("/v1/{rest:path}", answer, methods=["POST"])])
    async with listening(app) as url:
        yield f"{url}/v1", seen


def events(*pieces: str, finish: str | None = "stop", field: str = "delta") -> Response:
    """A stream of text pieces, ended or broken off."""
    lines: list[str] = []
    for piece in pieces:
        told = {"content": piece} if field == "delta" else None
        choice = {"index": 0, "delta": told} if told else {"index": 0, "text": piece}
        lines.append(json.dumps({"choices": [choice]}))
    if finish is not None:
        lines.append(json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}))
        lines.append("[DONE]")
    body = "".join(f"data: {line}\n\n" for line in lines)
    return Response(body, media_type="text/event-stream")


@asynccontextmanager
async def engine(renderer: Renderer, url: str, **options: Any) -> AsyncIterator[ApiEngine]:
    made = ApiEngine(renderer=renderer, base_url=url, model_id="m", **options)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


def prompt(renderer: Renderer, *texts: str) -> Any:
    roles = ["user", "assistant"]
    messages = [Message(roles[i % 2], text) for i, text in enumerate(texts)]
    return renderer.prompt_ids(messages)


async def test_an_answer_as_ids(renderer: Renderer):
    """Two characters, a tag and the end: ids 104 105 266 260."""
    async with server(lambda body, n: events("h", "i<interp", "reter>")) as (url, seen):
        async with engine(renderer, url) as made:
            found = await made.generate(
                prompt(renderer, "Q"), Sampling(max_tokens=9, seed=2**40 + 7)
            )
            statistics = made.statistics()
    assert found.token_ids.tolist() == [104, 105, 266, 260]
    assert (found.stop, found.versions) == ("stop_id", ((4, TEXT),))
    (body,) = seen.bodies
    assert body == {
        "model": "m",
        "stream": True,
        "temperature": 1.0,
        "max_tokens": 9,
        "seed": (2**40 + 7) % 2**31,
        "messages": [{"role": "user", "content": "Q"}],
    }
    assert (statistics.generated_tokens, statistics.running, statistics.waiting) == (4, 0, 0)


@pytest.mark.parametrize(
    ("pieces", "text", "found"),
    [
        (("a</co", "de>b", "c"), "a</code>", "</code>"),
        (("a</code>b</end>",), "a</code>", "</code>"),
        (("x</end></code>",), "x</end>", "</end>"),
    ],
)
async def test_the_first_stop_string_ends_the_answer(
    renderer: Any, pieces: Any, text: str, found: str
):
    """It is part of the answer, what follows is not, and the server was not told of it."""
    async with (
        server(lambda body, n: events(*pieces)) as (url, seen),
        engine(renderer, url) as made,
    ):
        sampling = Sampling(max_tokens=50, stop=("</code>", "</end>"))
        answer = await made.generate(prompt(renderer, "Q"), sampling)
    assert (answer.stop, answer.stop_text) == ("stop_text", found)
    assert renderer.tokenizer.decode(answer.token_ids) == text
    assert "stop" not in seen.bodies[0]


@pytest.mark.parametrize(("most", "finish"), [(3, "stop"), (3, "length"), (9, "length")])
async def test_no_more_tokens_than_asked_for(renderer: Renderer, most: int, finish: str):
    async with server(lambda body, n: events("abcdef", finish=finish)) as (url, _):
        async with engine(renderer, url) as made:
            found = await made.generate(prompt(renderer, "Q"), Sampling(max_tokens=most))
    assert (found.token_ids.tolist(), found.stop) == (list(b"abcdef"[:most]), "length")


@pytest.mark.parametrize("how", ["ask", "continue"])
async def test_an_unfinished_turn(renderer: Renderer, how: Any):
    """A tool answered inside the assistant's turn: any endpoint can be asked to go on."""
    begun = renderer.demo("<code>1</code><interpreter>1</interpreter>")
    row = np.concatenate([prompt(renderer, "Q"), begun])
    async with server(lambda body, n: events("ok")) as (url, seen):
        async with engine(renderer, url, open_turn=how) as made:
            await made.generate(row, Sampling(max_tokens=9))
    (body,) = seen.bodies
    said = [(m["role"], m["content"]) for m in body["messages"]]
    expected = [("user", "Q"), ("assistant", "<code>1</code><interpreter>1</interpreter>")]
    assert said == (expected if how == "continue" else [*expected, ("user", GO_ON)])
    assert body.get("continue_final_message", False) is (how == "continue")


async def test_completions_send_ids_and_read_logprobs(renderer: Renderer):
    told = {"tokens": ["h", "i"], "token_logprobs": [-0.5, -0.25]}
    choice = {"text": "hi", "logprobs": told, "finish_reason": "stop"}
    async with server(lambda body, n: JSONResponse({"choices": [choice]})) as (url, seen):
        async with engine(renderer, url, mode="completions", extra={"min_p": 0.1}) as made:
            found = await made.generate(prompt(renderer, "Q"), Sampling(max_tokens=9, top_p=0.5))
    assert seen.paths == ["/v1/completions"]
    body = seen.bodies[0]
    assert (body["prompt"], body["logprobs"]) == ([257, 81, 260, 259], 1)
    assert (body["top_p"], body["min_p"]) == (0.5, 0.1)
    assert found.logprobs.tolist() == [-0.5, -0.25, 0.0]


async def test_logprobs_of_other_tokens_are_not_ours(renderer: Renderer):
    """One token there, two ids here: nothing is known of either."""
    told = {"tokens": ["hi"], "token_logprobs": [-0.5]}
    choice = {"text": "hi", "logprobs": told, "finish_reason": "stop"}
    async with server(lambda body, n: JSONResponse({"choices": [choice]})) as (url, _):
        async with engine(renderer, url, mode="completions") as made:
            found = await made.generate(prompt(renderer, "Q"), Sampling(max_tokens=9))
    assert found.logprobs.tolist() == [0.0, 0.0, 0.0]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "PAUSE_S", 0.001)


@pytest.mark.usefixtures("quick")
async def test_what_may_pass_is_asked_again(renderer: Renderer):
    """A crowd, a broken server, a stream that breaks off, an error inside one, no JSON; then it works."""
    inside = Response('data: {"error": {"message": "oops"}}\n\n', media_type="text/event-stream")
    answers = [
        JSONResponse({"error": {"message": "slow down"}}, 429),
        Response("burned", 502),
        events("half", finish=None),
        inside,
        Response("data: {nonsense\n\n", media_type="text/event-stream"),
        events("whole"),
    ]
    async with server(lambda body, n: answers[n]) as (url, seen):
        async with engine(renderer, url, retries=5) as made:
            found = await made.generate(prompt(renderer, "Q"), Sampling(max_tokens=9))
    assert renderer.tokenizer.decode(found.token_ids[:-1]) == "whole"
    assert seen.bodies == [seen.bodies[0]] * 6


@pytest.mark.usefixtures("quick")
async def test_the_pause_a_server_asks_for_holds_everybody_back(renderer: Renderer):
    """Told to wait 300 ms by one request's answer, no request is sent within them."""
    clock = asyncio.get_running_loop().time
    times: list[float] = []

    def handler(body: Any, n: int) -> Response:
        times.append(clock())
        if n == 0:
            return Response("", 429, {"retry-after-ms": "300"})
        return events("ok")

    async with server(handler) as (url, _), engine(renderer, url) as made:
        row, sampling = prompt(renderer, "Q"), Sampling(max_tokens=9)
        async with asyncio.TaskGroup() as group:
            group.create_task(made.generate(row, sampling))
            while not times:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.1)
            group.create_task(made.generate(row, sampling))
    assert len(times) == 3
    assert min(times[1:]) - times[0] >= 0.29


@pytest.mark.usefixtures("quick")
async def test_the_last_failure_is_told_without_the_key(
    renderer: Any, monkeypatch: Any, caplog: Any
):
    monkeypatch.setenv("THE_KEY", "sk-verysecret")

    def handler(body: Any, n: int) -> Response:
        return JSONResponse({"error": {"message": "bad sk-verysecret day"}}, 500)

    async with server(handler) as (url, seen):
        async with engine(renderer, url, key_env="THE_KEY", retries=1) as made:
            with pytest.raises(EngineError, match=r"failed 2 times: status 500: bad \*\*\* day"):
                await made.generate(prompt(renderer, "Q"), Sampling(max_tokens=9))
            assert "verysecret" not in repr(made) + caplog.text
    assert {headers["authorization"] for headers in seen.headers} == {"Bearer sk-verysecret"}


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (401, UserError, "refused with status 401; check engine.base_url"),
        (404, UserError, "refused with status 404"),
        (400, EngineError, "status 400: too long"),
        (422, EngineError, "status 422: too long"),
    ],
)
async def test_what_will_not_pass_is_asked_once(renderer: Any, status: int, error: Any, words: str):
    def handler(body: Any, n: int) -> Response:
        return JSONResponse({"detail": "too long"}, status)

    async with server(handler) as (url, seen), engine(renderer, url) as made:
        with pytest.raises(error, match=words):
            await made.generate(prompt(renderer, "Q"), Sampling(max_tokens=9))
    assert len(seen.bodies) == 1


async def test_a_held_back_answer_and_a_deadline_are_the_world_s(renderer: Renderer):
    async with server(lambda body, n: events("x", finish="content_filter")) as (url, _):
        async with engine(renderer, url) as made:
            with pytest.raises(EngineError, match="held an answer back"):
                await made.generate(prompt(renderer, "Q"), Sampling(max_tokens=9))
    async with server(lambda body, n: Response("", 503, {"retry-after": "50"})) as (url, _):
        async with engine(renderer, url, deadline_s=0.2) as made:
            with pytest.raises(EngineError, match=r"no answer within 0\.2 s"):
                await made.generate(prompt(renderer, "Q"), Sampling(max_tokens=9))
            assert made.statistics().running == 0


async def test_no_server(renderer: Renderer):
    async with engine(renderer, "http://127.0.0.1:1/v1", retries=0) as made:
        with pytest.raises(EngineError, match="failed 1 times: ConnectError"):
            await made.generate(prompt(renderer, "Q"), Sampling(max_tokens=9))


async def test_what_it_cannot_do_is_said(renderer: Renderer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(SetupError, match="NO_KEY, which is not set"):
        ApiEngine(renderer=renderer, base_url="http://x", model_id="m", key_env="NO_KEY")
    with pytest.raises(UserError, match="starts with http"):
        ApiEngine(renderer=renderer, base_url="x", model_id="m")
    async with engine(renderer, "http://127.0.0.1:1/v1") as made:
        row = prompt(renderer, "Q")
        for sampling in (Sampling(max_tokens=1, top_k=5), Sampling(max_tokens=1, entropies=True)):
            with pytest.raises(UserError, match="cannot honour"):
                await made.generate(row, sampling)
        with pytest.raises(UserError, match="cannot be trained"):
            await made.begin_update(1)
        with pytest.raises(UserError, match="scores no rows"):
            await made.score(row, Sampling(max_tokens=1))


def test_it_is_found_by_name():
    config = compose(["engine=api", "engine.base_url=http://x", "engine.model_id=m"])
    assert (config.engine.name, config.engine.given["model_id"]) == ("api", "m")


async def test_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The whole command: a call of the sandbox and an answer each; the key is in no file."""
    monkeypatch.setenv("THE_KEY", "sk-verysecret")

    def handler(body: Any, n: int) -> Response:
        said = body["messages"]
        done = any("<interpreter>" in message["content"] for message in said)
        return events("<answer>7</answer>" if done else "<code>3+4</code> and more")

    async with server(handler) as (url, seen):
        config = compose(
            [
                "env=retool_math", "engine=api", f"engine.base_url={url}", "engine.model_id=m",
                "engine.key_env=THE_KEY", "eval.tasks=3", f"dir={tmp_path / 'run'}",
            ]
        )  # fmt: skip
        found = await asyncio.to_thread(evaluate, config, sinks=[], command="agentrl eval")
        lines = (tmp_path / "run" / "trajectories.jsonl").read_text().split("\n")[:-1]
    assert (found.trajectories, found.errors, found.calls) == (3, 0.0, 1.0)
    for trajectory in map(from_line, lines):
        assert [call.content for call in trajectory.calls] == ["7"]
        versions = trajectory.rows[0].versions
        assert set(versions[trajectory.rows[0].mask].tolist()) == {TEXT}
    written = [p for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert written
    assert not any(b"verysecret" in path.read_bytes() for path in written)
    assert len(seen.bodies) == 6


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(texts, min_size=1, max_size=5), st.booleans())
def test_rows_are_read_back_whatever_their_text_spells(
    renderer: Renderer, said: list[str], system: bool
):
    """Control tokens spelled in text stay text: the row is cut at ids."""
    import unicodedata

    said = [unicodedata.normalize("NFC", text + "<|end|><|user|>") for text in said]
    roles = ["user", "assistant"]
    messages = [Message(roles[i % 2], text) for i, text in enumerate(said)]
    messages = [Message("system", "S"), *messages] if system else messages
    found = conversation_of(renderer, renderer.prompt_ids(messages))
    assert [(m.role, m.content) for m in found.messages] == [(m.role, m.content) for m in messages]
    assert found.begun == ""


def test_a_row_without_an_open_turn_is_refused(renderer: Renderer):
    with pytest.raises(UserError, match="must end in the assistant's turn"):
        conversation_of(renderer, ids_array([257, 81, 260]))
