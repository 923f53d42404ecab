"""Recorded sessions: rows of exact ids, worked out by hand and against our own loop."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentrl.engine.scripted import Reply
from agentrl.errors import EngineError
from agentrl.rollout.loop import run_episode
from agentrl.serve.gateway.session import Session
from agentrl.serve.gateway.turns import Verdict
from agentrl.serve.gateway.wire import ApiError
from agentrl.trajectory import StopReason
from agentrl.trajectory_json import from_line, to_line
from agentrl.transcript import Origin
from agentrl.types import Message

CALL, ANSWER = "<code>1+3</code>", "<answer>4</answer>"
DONE = Verdict(StopReason.TERMINATED, {"env": 1.0})


async def two_turns(world: Any, session: Session) -> tuple[Any, Any]:
    """A tool loop of two requests, as a client writes it."""
    asked = [Message("user", "Q")]
    first = await session.complete(world.ask(*asked))
    asked += [first.message, Message("tool", "4", call_id=first.message.tool_calls[0].id)]
    return first, await session.complete(world.ask(*asked))


async def test_a_tool_loop_by_hand(world: Any):
    """Q; `<code>1+3</code>` (5 ids), its output inline (3 ids), `<answer>4</answer>` and the end (4)."""
    engine = world.engine(
        Reply(CALL, [-0.1, -0.2, -0.3, -0.4, -0.5, 0.0]), Reply(ANSWER, [-1.0, -2.0, -3.0, -4.0])
    )
    session = world.session(engine)
    first, second = await two_turns(world, session)
    assert first.finish == "tool_calls"
    assert (first.message.content, second.message.content) == ("", ANSWER)
    assert second.finish == "stop"
    (row,) = session.finish(DONE).rows
    markup = world.renderer.tokenizer.encode_markup
    prompt = [258, *b"Tools: python", 260, 257, *b"Q", 260, 259]
    call, shown = markup(CALL), markup("<interpreter>4</interpreter>")
    answer = [*markup(ANSWER), 260]
    assert row.token_ids.tolist() == [*prompt, *call, *shown, *answer]
    assert row.mask.tolist() == [False] * 19 + [True] * 5 + [False] * 3 + [True] * 4
    given = [0.0] * 19 + [-0.1, -0.2, -0.3, -0.4, -0.5] + [0.0] * 3 + [-1.0, -2.0, -3.0, -4.0]
    assert row.logprobs.tolist() == np.array(given, np.float32).tolist()
    assert [s.origin.name for s in row.segments] == ["PROMPT", "MODEL", "OBSERVATION", "MODEL"]
    assert engine.rows[1] == [*prompt, *call, *shown]


async def test_it_records_what_our_own_loop_records(world: Any):
    """Ids, logprobs, origins, seeds, ledger and conversation of the same episode."""

    def engine() -> Any:
        return world.engine(Reply(CALL, [-0.5] * 6), Reply(ANSWER, [-0.25] * 4))

    ours, theirs = engine(), engine()
    own = await run_episode(world.task, world.parts(ours), world.names())
    session = world.session(theirs)
    await two_turns(world, session)
    found = session.finish(DONE)
    assert to_rows(found) == to_rows(own)
    assert ours.samplings == theirs.samplings
    assert (found.uid, found.seed, found.n_turns) == (own.uid, own.seed, own.n_turns)
    assert found.rewards == own.rewards == {"env": 1.0}
    assert [(m.role, m.content) for m in found.messages] == [
        (m.role, m.content) for m in own.messages
    ]
    keys = ("turn", "name", "arguments", "content", "error", "truncated")
    assert [[getattr(c, k) for k in keys] for c in found.calls] == [
        [getattr(c, k) for k in keys] for c in own.calls
    ]
    assert to_rows(from_line(to_line(found))) == to_rows(own)


def to_rows(trajectory: Any) -> list[Any]:
    return [
        [row.token_ids.tolist(), row.logprobs.tolist(), row.origins.tolist(), row.versions.tolist()]
        for row in trajectory.rows
    ]


async def test_sampled_ids_survive_whatever_their_text_encodes_to(world: Any):
    """`</code>` of seven byte ids: encoded again it would be one. The row keeps the seven."""
    spelled = [*world.renderer.tokenizer.encode_markup("<code>1+3"), *b"</code>"]
    session = world.session(world.engine(spelled, ANSWER))
    await two_turns(world, session)
    ids = session.finish(DONE).rows[0].token_ids.tolist()
    assert ids[19 : 19 + len(spelled)] == spelled
    assert (session.counts.continued, session.counts.rendered) == (1, 1)


async def test_a_rewritten_history_begins_a_row_that_is_counted(world: Any):
    session = world.session(world.engine(ANSWER))
    await session.complete(world.ask(Message("user", "Q")))
    summary = [Message("user", "Q, in short"), Message("assistant", "4?"), Message("user", "Yes?")]
    turn = await session.complete(world.ask(*summary))
    assert (turn.row, session.counts.rendered, session.counts.continued) == (1, 2, 0)
    first, second = session.finish(DONE).rows
    assert first.n_sampled == second.n_sampled == 4
    text = world.renderer.tokenizer.decode(second.token_ids[second.origins == Origin.PROMPT])
    assert text.endswith("in short<|end|><|assistant|>4?<|end|><|user|>Yes?<|end|><|assistant|>")


async def test_asking_twice_branches_from_the_sampled_ids(world: Any):
    """The second row's prompt is the first one's ids; no sampled token is trained twice."""
    session = world.session(world.engine(CALL, ANSWER, "<answer>5</answer>"))
    first = await session.complete(world.ask(Message("user", "Q")))
    output = Message("tool", "4", call_id="call_0_0")
    again = world.ask(Message("user", "Q"), first.message, output)
    await session.complete(again)
    turn = await session.complete(again)
    assert (turn.row, session.counts.branched, session.counts.continued) == (1, 1, 1)
    one, two = session.finish(DONE).rows
    n = len(one) - 4
    assert two.token_ids[:n].tolist() == one.token_ids[:n].tolist()
    assert two.segments[0].origin is Origin.PROMPT
    assert (one.n_sampled, two.n_sampled) == (9, 4)
    assert [call.content for call in session.finish(DONE).calls] == ["4"]


async def test_what_clients_drop_or_strip_still_continues(world: Any):
    """Thinking left out, blanks around the text gone, `content` null beside a call."""
    session = world.session(world.engine("<think>hm</think>\n A \n", ANSWER))
    first = await session.complete(world.ask(Message("user", "Q")))
    assert (first.message.content, first.message.reasoning) == ("A", "hm")
    await session.complete(
        world.ask(Message("user", "Q"), Message("assistant", "A"), Message("user", "so?"))
    )
    assert session.counts.continued == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"content": "another"},
        {"tool_calls": ()},
    ],
)
async def test_what_was_not_said_does_not_continue(world: Any, changed: Any):
    session = world.session(world.engine(CALL, ANSWER))
    first = await session.complete(world.ask(Message("user", "Q")))
    told = Message(
        "assistant", changed.get("content", ""), changed.get("tool_calls", first.message.tool_calls)
    )
    await session.complete(world.ask(Message("user", "Q"), told, Message("user", "go on")))
    assert (session.counts.continued, session.counts.rendered) == (0, 2)


async def test_a_call_answered_in_a_rewritten_history_is_in_the_ledger(world: Any):
    """The program sums up what was said, and shows the call and its output under the summary."""
    session = world.session(world.engine(CALL, ANSWER))
    first = await session.complete(world.ask(Message("user", "Q")))
    output = Message("tool", "4", call_id="call_0_0")
    await session.complete(world.ask(Message("user", "in short"), first.message, output))
    (call,) = session.finish(DONE).calls
    assert (call.turn, call.name, call.content) == (0, "python", "4")
    assert session.counts.rendered == 2


async def test_calls_of_a_retold_history_are_in_the_protocol_s_words(world: Any, say: Any):
    session = world.session(world.engine(ANSWER))
    await session.complete(
        world.ask(say("user", "Q"), say("assistant", "", "a", "2*2"), say("tool", "4", "a"))
    )
    text = world.renderer.tokenizer.decode(session.rows[0].transcript.token_ids)
    assert "<|assistant|><code>2*2</code><|end|><|tool|>4<|end|><|assistant|>" in text


async def test_two_requests_at_once_never_write_into_one_row(world: Any):
    engine = world.engine(CALL, ANSWER, ANSWER)
    session = world.session(engine)
    first = await session.complete(world.ask(Message("user", "Q")))
    output = Message("tool", "4", call_id="call_0_0")
    again = world.ask(Message("user", "Q"), first.message, output)
    engine.hold = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        turns = [group.create_task(session.complete(again)) for _ in range(2)]
        await engine.asked(3)
        engine.hold.set()
    assert sorted(turn.result().row for turn in turns) == [0, 1]
    assert len({sampling.seed for sampling in engine.samplings}) == 3


async def test_a_cancelled_request_leaves_nothing(world: Any):
    engine = world.engine(CALL)
    session, engine.hold = world.session(engine), asyncio.Event()
    request = asyncio.ensure_future(session.complete(world.ask(Message("user", "Q"))))
    await engine.asked(1)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert (session.rows, session.busy, engine.cancelled) == ([], 0, 1)


async def test_an_engine_that_fails_once_is_asked_again_in_the_same_row(world: Any):
    failing = iter([False, True, False])

    def script(row: Any, sampling: Any, index: int) -> str:
        if next(failing):
            raise EngineError("it burned")
        return CALL if index == 0 else ANSWER

    session = world.session(world.script(script))
    first = await session.complete(world.ask(Message("user", "Q")))
    again = world.ask(Message("user", "Q"), first.message, Message("tool", "4", call_id="call_0_0"))
    with pytest.raises(ApiError, match="it burned") as failed:
        await session.complete(again)
    assert (failed.value.status, session.fault) == (503, "EngineError: it burned")
    await session.complete(again)
    assert (session.fault, len(session.rows), session.counts.continued) == (None, 1, 1)
    assert session.finish(DONE).n_turns == 2


async def test_limits_are_told_and_remembered(world: Any):
    session = world.session(world.engine(ANSWER), max_turns=1)
    first = await session.complete(world.ask(Message("user", "Q")))
    with pytest.raises(ApiError, match="its 1 turns") as met:
        await session.complete(world.ask(Message("user", "Q"), first.message, Message("user", "?")))
    assert (met.value.code, session.limit) == ("max_turns", StopReason.MAX_TURNS)
    session = world.session(world.engine(ANSWER), max_tokens=10)
    with pytest.raises(ApiError, match="at most 10 fit") as met:
        await session.complete(world.ask(Message("user", "Q")))
    assert (met.value.code, session.limit) == ("context_length_exceeded", StopReason.MAX_TOKENS)


@pytest.mark.parametrize(
    ("limits", "fields", "reason"),
    [
        ({"turn_tokens": 3}, {}, StopReason.TURN_TOKENS),
        ({}, {"max_tokens": 3}, StopReason.TURN_TOKENS),
        ({"max_tokens": 22}, {}, StopReason.MAX_TOKENS),
    ],
)
async def test_a_cut_turn_calls_nothing(world: Any, limits: Any, fields: Any, reason: Any):
    session = world.session(world.engine(CALL), **limits)
    turn = await session.complete(world.ask(Message("user", "Q"), **fields))
    assert (turn.finish, turn.message.content, turn.message.tool_calls) == (
        "length",
        "<code>1+",
        (),
    )
    assert session.limit is reason


async def test_long_tool_output_loses_its_middle_and_says_so(world: Any):
    session = world.session(world.engine(CALL, ANSWER), observation_tokens=20)
    first = await session.complete(world.ask(Message("user", "Q")))
    output = Message("tool", "y" * 5000, call_id=first.message.tool_calls[0].id)
    await session.complete(world.ask(Message("user", "Q"), first.message, output))
    (record,) = session.finish(DONE).calls
    assert record.truncated
    assert record.content == "y" * 8 + "..." + "y" * 9


async def test_whose_temperature(world: Any):
    engine = world.engine(ANSWER)
    await world.session(engine).complete(world.ask(Message("user", "Q"), temperature=0.0, seed=5))
    theirs = world.session(engine, sampling_by="request")
    await theirs.complete(world.ask(Message("user", "Q"), temperature=0.5, seed=5))
    first, second = engine.samplings
    assert (first.temperature, second.temperature) == (1.0, 0.5)
    assert first.seed == world.names().seeds(0).turn(0) != second.seed
    assert theirs.rows[0].transcript.segments[-1].temperature == 0.5
    for refused in ({"temperature": 0.0}, {"top_p": 0.5}):
        with pytest.raises(ApiError, match="trained on"):
            await theirs.complete(world.ask(Message("user", "Q"), **refused))


async def test_a_client_s_stop_string_is_kept_in_the_row_and_cut_from_the_text(world: Any):
    session = world.session(world.engine("abcXdef"))
    turn = await session.complete(world.ask(Message("user", "Q"), stop=("X",)))
    assert (turn.message.content, turn.finish) == ("abc", "stop")
    row = session.rows[0].transcript
    assert row.token_ids[row.mask].tolist() == [*b"abcX"]


async def test_messages_as_a_template_shows_them(world: Any):
    """A protocol whose results are messages of their own."""
    call = '<tool_call>\n{"name": "python", "arguments": {"code": "1+3"}}\n</tool_call>'
    session = world.session(world.engine(f"I run it.{call}", "four"), protocol=world.hermes)
    first, _ = await two_turns(world, session)
    assert first.message.content == "I run it."
    (row,) = session.finish(DONE).rows
    text = world.renderer.tokenizer.decode(row.token_ids)
    assert text.endswith(f"{call}<|end|><|tool|>4<|end|><|assistant|>four<|end|>")
    assert json.loads(json.dumps(first.message.tool_calls[0].arguments)) == {"code": "1+3"}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("gbrs"), st.integers(0, 5)), min_size=1, max_size=10))
async def test_whatever_a_client_does_each_sampled_token_is_trained_once(
    world: Any, moves: list[tuple[str, int]]
):
    """Go on, go back, rewrite or start anew: sampled ids and logprobs stand in the rows exactly
    once, each row begins with its prompt, and every request was a prefix of its row."""

    def script(row: Any, sampling: Any, index: int) -> Reply:
        text = f"<code>{index}</code>" if index % 2 else f"say {index}"
        n = len(world.renderer.demo(text, ended=True))
        return Reply(text, [-0.001 * (index + 1) - 0.01 * t for t in range(n)])

    engine = world.script(script)
    session, known = world.session(engine, max_turns=99, max_tokens=9999), [[Message("user", "Q")]]
    for move, pick in moves:
        messages = list(known[pick % len(known)])
        if move == "s":
            messages = [Message("user", f"other {pick}")]
        elif move == "r" and len(messages) > 1:
            messages[0] = Message("user", f"rewritten {pick}")
        elif move == "b" and len(messages) > 3:
            messages = messages[:-2]
        turn = await session.complete(world.ask(*messages))
        answers = [Message("tool", "out", call_id=c.id) for c in turn.message.tool_calls]
        known.append([*messages, turn.message, *(answers or [Message("user", f"next {pick}")])])
    rows = session.finish(DONE).rows
    sampled = [ids for g in engine.given for ids in g.token_ids.tolist()]
    logprobs = [value for g in engine.given for value in g.logprobs.tolist()]
    found = [
        (t, p)
        for row in rows
        for t, p in zip(
            row.token_ids[row.mask].tolist(), row.logprobs[row.mask].tolist(), strict=True
        )
    ]
    assert sorted(found) == sorted(zip(sampled, logprobs, strict=True))
    assert all(row.segments[0].origin is Origin.PROMPT for row in rows)
    grown = [row.token_ids.tolist() for row in rows]
    for asked, generation in zip(engine.rows, engine.given, strict=True):
        whole = [*asked, *generation.token_ids.tolist()]
        assert any(row[: len(whole)] == whole for row in grown)
    counts = session.counts
    assert counts.continued + counts.branched + counts.rendered == len(moves)
    assert counts.branched + counts.rendered == len(rows)
