"""The gateway over HTTP, spoken to by OpenAI's own client and by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from agentrl.errors import EngineError
from agentrl.serve.gateway.agent import Agent
from agentrl.serve.gateway.app import Rules, gateway_app
from agentrl.serve.gateway.backend import Recording
from agentrl.serve.gateway.recordings import UNREWARDED, OpenSessions
from agentrl.serve.gateway.server import LOCAL, listening
from agentrl.trajectory import StopReason, Trajectory

openai = pytest.importorskip("openai")

CALL, ANSWER = "<code>1+3</code>", "<answer>4</answer>"
USER = {"role": "user", "content": "Q"}
PYTHON = {
    "type": "function",
    "function": {
        "name": "python",
        "description": "Run code.",
        "parameters": {"type": "object", "properties": {"code": {"type": "string"}}},
    },
}


@asynccontextmanager
async def agent(world: Any, engine: Any, rules: Rules | None = None, **changes: Any):
    backend = Agent("nano", world.parts(engine, **changes), in_flight=changes.pop("places", 4))
    async with listening(gateway_app("nano", backend, rules or Rules(hosts=LOCAL))) as url:
        yield url


@asynccontextmanager
async def recorder(
    world: Any, engine: Any, rules: Rules | None = None, **options: Any
) -> AsyncIterator[tuple[str, list[Trajectory], OpenSessions]]:
    kept: list[Trajectory] = []
    sessions = OpenSessions(world.parts(engine), kept.append, seed=9, **options)
    backend = Recording("nano", sessions, world.renderer.tokenizer)
    app = gateway_app("nano", backend, rules or Rules(hosts=LOCAL), sessions)
    async with listening(app) as url:
        yield url, kept, sessions


def client(url: str, key: str = "me", path: str = "/v1") -> Any:
    return openai.AsyncOpenAI(base_url=url + path, api_key=key, max_retries=0)


async def until(met: Callable[[], object]) -> None:
    """Wait for what happens on the other side."""
    async with asyncio.timeout(30):
        while not met():  # noqa: ASYNC110  the other side tells nobody
            await asyncio.sleep(0.01)


async def ask(url: str, key: str) -> Any:
    """One request of a client of its own."""
    async with client(url, key) as ours:
        return await ours.chat.completions.create(model="x", messages=[USER])


async def test_the_agent_answers_with_its_tools_at_work(world: Any):
    async with agent(world, world.engine(CALL, ANSWER)) as url, client(url) as ours:
        assert [model.id async for model in ours.models.list()] == ["nano"]
        assert (await ours.models.retrieve("nano")).owned_by == "agentrl"
        found = await ours.chat.completions.create(model="any", messages=[USER])
    (choice,) = found.choices
    assert (choice.message.content, choice.finish_reason) == (ANSWER, "stop")
    assert choice.message.reasoning_content == f"{CALL}\n-> 4\n\n"
    (turn,) = choice.agentrl["turns"]
    (call,) = turn["calls"]
    assert (call["name"], call["arguments"], call["content"]) == ("python", {"code": "1+3"}, "4")
    # 19 ids of prompt and 3 of the tool's answer were read; 5 and 4 were sampled
    usage = found.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (22, 9, 31)


async def test_the_agent_streams_turn_by_turn(world: Any):
    async with agent(world, world.engine(CALL, ANSWER)) as url, client(url) as ours:
        stream = await ours.chat.completions.create(
            model="any", messages=[USER], stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    *turns, last = chunks
    assert last.usage.completion_tokens == 9
    deltas = [chunk.choices[0].delta for chunk in turns]
    assert deltas[0].reasoning_content == f"{CALL}\n-> 4\n\n"
    assert "".join(delta.content or "" for delta in deltas) == ANSWER
    assert [chunk.choices[0].finish_reason for chunk in turns][-1] == "stop"


async def test_several_choices_differ_by_seed_and_repeat_by_it(world: Any):
    def script(row: Any, sampling: Any, index: int) -> str:
        return f"<answer>{sampling.seed % 100_000}</answer>"

    async with agent(world, world.script(script)) as url, client(url) as ours:
        create = ours.chat.completions.create
        first, again, other = [
            await create(model="x", messages=[USER], n=3, seed=seed) for seed in (1, 1, 2)
        ]
    told = [[c.message.content for c in found.choices] for found in (first, again, other)]
    assert told[0] == told[1] != told[2]
    assert len(set(told[0])) == 3


@pytest.mark.parametrize(
    ("fields", "content", "finish"),
    [
        ({"max_tokens": 7}, "<a", "length"),
        ({"stop": ["swer>4"]}, "<an", "stop"),
        ({}, ANSWER, "stop"),
    ],
)
async def test_the_request_s_own_limits(world: Any, fields: Any, content: str, finish: str):
    """The call is 5 ids; `<a` are two further ones where tags are spelled in letters."""
    engine = world.engine(CALL, [*ANSWER.encode(), 260])
    async with agent(world, engine) as url, client(url) as ours:
        found = await ours.chat.completions.create(model="x", messages=[USER], **fields)
    (choice,) = found.choices
    assert (choice.message.content, choice.finish_reason) == (content, finish)


async def test_temperature_reaches_the_engine(world: Any):
    engine = world.engine(ANSWER)
    async with agent(world, engine) as url, client(url) as ours:
        await ours.chat.completions.create(model="x", messages=[USER], temperature=0.25, top_p=0.5)
    assert (engine.samplings[0].temperature, engine.samplings[0].top_p) == (0.25, 0.5)


async def test_a_conversation_is_read_whole(world: Any):
    engine = world.engine(ANSWER)
    said = [USER, {"role": "assistant", "content": "A"}, {"role": "user", "content": "and?"}]
    async with agent(world, engine) as url, client(url) as ours:
        await ours.chat.completions.create(model="x", messages=said)
    text = world.renderer.tokenizer.decode(engine.rows[0])
    assert text.endswith("<|user|>Q<|end|><|assistant|>A<|end|><|user|>and?<|end|><|assistant|>")


async def test_refusals_are_openai_s_errors(world: Any):
    async with agent(world, world.engine(ANSWER)) as url, client(url) as ours:
        create = ours.chat.completions.create
        with pytest.raises(openai.BadRequestError) as refused:
            await create(model="x", messages=[USER], tools=[PYTHON])
        assert refused.value.param == "tools"
        with pytest.raises(openai.BadRequestError, match="presence_penalty"):
            await create(model="x", messages=[USER], presence_penalty=1)
        with pytest.raises(openai.BadRequestError, match="last message"):
            await create(model="x", messages=[USER, {"role": "assistant", "content": "A"}])
        with pytest.raises(openai.NotFoundError):
            await ours.models.retrieve("gpt")
        with pytest.raises(openai.NotFoundError):
            await ours.embeddings.create(model="x", input="x")


async def test_an_engine_that_dies_is_a_server_error(world: Any):
    def script(row: Any, sampling: Any, index: int) -> str:
        raise EngineError("it burned")

    async with agent(world, world.script(script)) as url, client(url) as ours:
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError, match="it burned") as failed:
                await ours.chat.completions.create(model="x", messages=[USER], stream=stream)
            assert failed.value.status_code == 503


async def test_our_own_fault_tells_nothing_of_its_insides(world: Any, caplog: Any):
    def script(row: Any, sampling: Any, index: int) -> str:
        raise KeyError("secret place")

    async with agent(world, world.script(script)) as url, client(url) as ours:
        with pytest.raises(openai.InternalServerError, match="internal error: KeyError") as failed:
            await ours.chat.completions.create(model="x", messages=[USER])
    assert "secret" not in str(failed.value)
    assert "secret place" in caplog.text


async def test_who_may_come_in(world: Any):
    rules = Rules(token="s3cret", max_body_bytes=2000, hosts=LOCAL)
    async with agent(world, world.engine(ANSWER), rules) as url, httpx.AsyncClient() as raw:
        for key in ("", "wrong", "s3cre", "s3cretx"):
            with pytest.raises(openai.AuthenticationError):
                await ask(url, key or "none")
        for key in ("s3cret", "s3cret/one"):
            await ask(url, key)
        good = {"Authorization": "Bearer s3cret"}
        chat = f"{url}/v1/chat/completions"
        body = {"messages": [{"role": "user", "content": "x" * 3000}]}
        assert (await raw.post(chat, json=body, headers=good)).status_code == 413
        text = {**good, "content-type": "text/plain"}
        assert (await raw.post(chat, content=b"{}", headers=text)).status_code == 415
        host = {**good, "host": "evil.example"}
        assert (await raw.post(chat, json={"messages": [USER]}, headers=host)).status_code == 400
        broken = {**good, "content-type": "application/json"}
        answer = await raw.post(chat, content=b"{", headers=broken)
        assert (answer.status_code, answer.json()["error"]["type"]) == (
            400,
            "invalid_request_error",
        )
        assert (await raw.get(f"{url}/v1/sessions/x/models", headers=good)).status_code == 404


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_stops_the_work(world: Any, quiz: Any, stream: bool):
    engine = world.engine(ANSWER)
    engine.hold, closed = asyncio.Event(), quiz.closed
    async with agent(world, engine) as url:
        async with httpx.AsyncClient(timeout=30) as raw:
            body = {"messages": [USER], "stream": stream}
            asking = asyncio.ensure_future(raw.post(f"{url}/v1/chat/completions", json=body))
            await engine.asked(1)
            asking.cancel()
        await until(lambda: engine.cancelled and quiz.closed > closed)
    assert (engine.cancelled, quiz.closed) == (1, closed + 1)


async def test_a_crowd_is_sent_away(world: Any):
    engine = world.engine(ANSWER)
    engine.hold = asyncio.Event()
    backend = Agent("nano", world.parts(engine), in_flight=1)
    async with (
        listening(gateway_app("nano", backend, Rules(hosts=LOCAL))) as url,
        client(url) as ours,
        asyncio.TaskGroup() as group,
    ):
        create = ours.chat.completions.create
        waiting = [group.create_task(create(model="x", messages=[USER], n=n)) for n in (1, 8)]
        await until(lambda: backend._slots.waiting == 8)
        with pytest.raises(openai.RateLimitError):
            await create(model="x", messages=[USER], n=8)
        engine.hold.set()
    assert [len(task.result().choices) for task in waiting] == [1, 8]


async def loop_of(ours: Any) -> None:
    """A foreign agent: it runs its own tool until there is an answer."""
    messages: list[Any] = [USER]
    while True:
        found = await ours.chat.completions.create(model="x", messages=messages, tools=[PYTHON])
        message = found.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            return
        for call in message.tool_calls:
            code = json.loads(call.function.arguments)["code"]
            output = str(sum(map(int, code.split("+"))))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": output})


async def looping(url: str, key: str) -> None:
    async with client(url, key) as ours:
        await loop_of(ours)


async def test_a_foreign_agent_is_recorded(world: Any):
    """By path and by key; each session is a trajectory of its own once it is rewarded."""
    async with recorder(world, world.script(by_row)) as (url, kept, _), httpx.AsyncClient() as raw:
        for path, key, who in (("/v1/sessions/a", "x", "a"), ("/v1", "b", "b")):
            async with client(url, key, path) as ours:
                await loop_of(ours)
            answer = await raw.post(f"{url}/v1/sessions/{who}/reward", json={"reward": 0.5})
            told = answer.json()
            assert (told["turns"], told["rows"], told["continued"]) == (2, 1, 1)
    assert [t.uid for t in kept] == ["0/a/0", "0/b/0"]
    for trajectory in kept:
        assert trajectory.rewards == {"env": 0.5}
        assert trajectory.stop is StopReason.TERMINATED
        assert trajectory.task.question == "Q"
        (row,) = trajectory.rows
        text = world.renderer.tokenizer.decode(row.token_ids)
        assert text.endswith(f"{CALL}<interpreter>4</interpreter>{ANSWER}<|end|>")
        assert [call.content for call in trajectory.calls] == ["4"]


def by_row(row: Any, sampling: Any, index: int) -> str:
    """A call first, the answer once there is an output (tag 266 opens it)."""
    return ANSWER if 266 in row.tolist() else CALL


async def test_the_environment_judges_a_task(world: Any):
    task = {"id": "t9", "question": "Q", "answer": "4"}
    async with recorder(world, world.script(by_row)) as (url, kept, _), httpx.AsyncClient() as raw:
        for i, answer in enumerate(("4", "5")):
            body = {"id": f"s{i}", "task": {**task, "answer": answer}}
            made = (await raw.post(f"{url}/v1/sessions", json=body)).json()
            async with client(url, path=made["path"]) as ours:
                await loop_of(ours)
            told = (await raw.post(f"{url}{made['path']}/reward", json={})).json()
            assert told["rewards"] == {"env": float(answer == "4")}
        taken = await raw.post(f"{url}/v1/sessions", json={"id": "s2"})
        again = await raw.post(f"{url}/v1/sessions", json={"id": "s2"})
        assert (taken.status_code, again.status_code) == (201, 409)
        nothing = await raw.post(f"{url}/v1/sessions/s2/reward", json={})
        assert nothing.status_code == 409
        unknown = await raw.post(f"{url}/v1/sessions/who/reward", json={"reward": 1})
        assert unknown.status_code == 404
    assert [t.uid for t in kept] == ["0/t9/0", "0/t9/1"]
    assert kept[0].answer == ANSWER


async def test_a_recorded_stream_carries_calls_logprobs_and_ids(world: Any):
    async with recorder(world, world.script(by_row)) as (url, _, sessions), client(url) as ours:
        stream = await ours.chat.completions.create(
            model="x", messages=[USER], tools=[PYTHON], stream=True
        )
        deltas = [chunk.choices[0].delta async for chunk in stream]
        (call,) = [c for delta in deltas for c in delta.tool_calls or ()]
        assert (call.index, call.function.name) == (0, "python")
        assert json.loads(call.function.arguments) == {"code": "1+3"}
        found = await ours.chat.completions.create(
            model="x",
            messages=[{"role": "user", "content": "else"}],
            logprobs=True,
            extra_body={"return_token_ids": True},
        )
        (choice,) = found.choices
        row = sessions.find("me").rows[1].transcript
        assert [*found.prompt_token_ids, *choice.token_ids] == row.token_ids.tolist()
        tokens = choice.logprobs.content
        assert [token.token for token in tokens] == ["<code>", "1", "+", "3", "</code>"]
        assert {token.logprob for token in tokens} == {0.0}


async def test_what_nobody_rewards_is_kept_and_trains_nothing(world: Any):
    async with recorder(world, world.engine(ANSWER), idle_s=0.05) as (url, kept, sessions):
        async with client(url) as ours:
            await ours.chat.completions.create(model="x", messages=[USER])
        async with asyncio.TaskGroup() as group:
            reaping = group.create_task(sessions.reap())
            await until(lambda: kept)
            reaping.cancel()
        async with client(url, "other") as ours:
            await ours.chat.completions.create(model="x", messages=[USER])
        sessions.close_all()
    assert [t.excluded for t in kept] == [UNREWARDED] * 2
    assert not any(t.rewards or t.trainable for t in kept)


async def test_two_programs_at_once_do_not_mix(world: Any):
    async with recorder(world, world.script(by_row), most=8) as (url, kept, _):
        async with asyncio.TaskGroup() as group:
            for i in range(8):
                group.create_task(looping(url, f"key{i}"))
        with pytest.raises(openai.RateLimitError, match="open sessions"):
            await ask(url, "ninth")
        async with httpx.AsyncClient() as raw:
            for i in range(8):
                await raw.post(f"{url}/v1/sessions/key{i}/reward", json={"reward": i})
    assert [t.rewards["env"] for t in kept] == [float(i) for i in range(8)]
    assert {t.n_sampled for t in kept} == {9}
