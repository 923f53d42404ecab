"""Trajectories to a line and back: every field, exactly."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.errors import UserError
from agentrl.trajectory import CallRecord, StopReason, Timings, Trajectory
from agentrl.trajectory_json import from_line, to_line
from agentrl.transcript import Origin, Segment, Transcript
from agentrl.types import Message, Task, ToolCall

TEXT = st.text(st.characters(), max_size=8)
"""Lone surrogates and line separators among them."""
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=3,
)
FLOATS = st.floats(-50, 0, width=32)


@st.composite
def segments(draw: Any) -> Segment:
    origin = draw(st.sampled_from([o for o in Origin if o is not Origin.PROMPT]))
    ids = draw(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5))
    per_token = st.lists(FLOATS, min_size=len(ids), max_size=len(ids))
    sampled = origin in (Origin.MODEL, Origin.FORCED)
    model = origin is Origin.MODEL
    return Segment(
        origin, ids,
        logprobs=draw(per_token) if sampled else None,
        version=draw(st.integers(0, 99)) if model else None,
        temperature=draw(st.floats(0.1, 2.0)),
        entropies=[-x for x in draw(per_token)] if model and draw(st.booleans()) else None,
        policy=draw(st.sampled_from(["policy", "critic"])),
    )  # fmt: skip


@st.composite
def rows(draw: Any) -> Transcript:
    prompt = Segment(Origin.PROMPT, draw(st.lists(st.integers(0, 300), min_size=1, max_size=4)))
    context = draw(st.none() | st.lists(st.integers(0, 300), max_size=4))
    mode = draw(st.sampled_from(["behaviour", "relabel"]))
    row = Transcript(train_context=context, ratio_mode=mode)
    return row.append(prompt, *draw(st.lists(segments(), max_size=4)))


CALLS = st.builds(
    CallRecord, st.integers(0, 9), TEXT, TEXT, TEXT,
    st.sampled_from([None, "parse", "timeout"]), st.booleans(), st.floats(0, 9), st.floats(0, 9),
)  # fmt: skip
MESSAGES = st.builds(
    Message, st.sampled_from(["system", "user", "assistant", "tool"]), TEXT,
    st.lists(st.builds(ToolCall, TEXT, TEXT, st.dictionaries(TEXT, PLAIN, max_size=2), TEXT),
             max_size=2).map(tuple),
    st.none() | TEXT, st.none() | TEXT, st.none() | TEXT,
)  # fmt: skip


@st.composite
def trajectories(draw: Any) -> Trajectory:
    stop = draw(st.sampled_from(list(StopReason)))
    return Trajectory(
        uid=draw(TEXT),
        task=Task(draw(TEXT), draw(TEXT), draw(st.none() | TEXT),
                  draw(st.dictionaries(TEXT, PLAIN, max_size=2)), draw(st.integers(0, 2**63 - 1))),
        sibling=draw(st.integers(0, 9)),
        rows=tuple(draw(st.lists(rows(), min_size=1, max_size=2))),
        messages=tuple(draw(st.lists(MESSAGES, max_size=3))),
        stop=stop,
        rewards=draw(st.dictionaries(TEXT, st.floats(-9, 9), max_size=2)),
        reward=draw(st.none() | st.floats(-9, 9)),
        calls=tuple(draw(st.lists(CALLS, max_size=2))),
        n_turns=draw(st.integers(0, 9)),
        answer=draw(st.none() | TEXT),
        seed=draw(st.integers(0, 2**63 - 1)),
        error=draw(TEXT) if stop is StopReason.ERROR else None,
        excluded=draw(st.none() | TEXT),
        weight=draw(st.floats(0, 2)),
        parent=draw(st.none() | TEXT),
        fork_tokens=draw(st.none() | st.integers(0, 9)),
        timings=Timings(*draw(st.tuples(*[st.floats(0, 9)] * 4))),
    )  # fmt: skip


def same_segment(a: Segment, b: Segment) -> None:
    assert (a.origin, a.version, a.temperature, a.policy) == (
        b.origin, b.version, b.temperature, b.policy,
    )  # fmt: skip
    assert a.token_ids.tobytes() == b.token_ids.tobytes()
    for x, y in ((a.logprobs, b.logprobs), (a.entropies, b.entropies)):
        assert (x is None) == (y is None)
        assert x is None or x.tolist() == y.tolist()  # type: ignore[union-attr]


def same_row(a: Transcript, b: Transcript) -> None:
    assert len(a.segments) == len(b.segments)
    for x, y in zip(a.segments, b.segments, strict=True):
        same_segment(x, y)
    assert a.ratio_mode == b.ratio_mode
    assert (a.train_context is None) == (b.train_context is None)
    if a.train_context is not None and b.train_context is not None:
        assert a.train_context.tolist() == b.train_context.tolist()


@settings(max_examples=150, deadline=None)
@given(trajectories())
def test_there_and_back(trajectory: Trajectory):
    line = to_line(trajectory)
    assert "\n" not in line
    assert line.encode()  # what a file needs
    back = from_line(line)
    for field in fields(Trajectory):
        if field.name != "rows":
            assert getattr(back, field.name) == getattr(trajectory, field.name), field.name
    assert len(back.rows) == len(trajectory.rows)
    for a, b in zip(back.rows, trajectory.rows, strict=True):
        same_row(a, b)
    assert to_line(back) == line


def test_float32_logprobs_are_exact():
    """Nine significant digits tell neighbouring float32 numbers apart."""
    near = np.float32(-1.2345678)
    values = [near, np.nextafter(near, np.float32(0)), np.float32(-1e-30), np.float32(-0.1)]
    row = Transcript().append(Segment(Origin.MODEL, [1, 2, 3, 4], values, version=0))
    made = Trajectory("u", Task("t", "?"), 0, (row,), (), StopReason.TERMINATED)
    assert from_line(to_line(made)).rows[0].logprobs.tobytes() == row.logprobs.tobytes()


def stored() -> dict[str, Any]:
    row = Transcript().append(Segment(Origin.PROMPT, [1]))
    made = Trajectory("u", Task("t", "é?"), 0, (row,), (), StopReason.TERMINATED)
    return json.loads(to_line(made))


def test_a_line_reads_as_text():
    row = Transcript().append(Segment(Origin.PROMPT, [1]))
    made = Trajectory("u", Task("t", "é 数?"), 0, (row,), (), StopReason.TERMINATED)
    assert '"question":"é 数?"' in to_line(made)
    assert to_line(made).startswith('{"schema_version":1,"uid":"u",')


def test_another_schema_is_refused_with_both_numbers():
    line = json.dumps({**stored(), "schema_version": 2})
    with pytest.raises(UserError, match="has schema_version 2, this agentrl reads 1; use the ver"):
        from_line(line)


@pytest.mark.parametrize(
    "line",
    [
        "", "{", "[]", "7", '"text"', "null", "{}",
        '{"schema_version": 1}',
        json.dumps({**stored(), "stop": "tired"}),
        json.dumps({**stored(), "task": {"id": "t"}}),
        json.dumps({**stored(), "rows": [], "stop": "terminated"}),
        json.dumps({**stored(), "calls": [{"turn": 0}]}),
        json.dumps({**stored(), "rows": [{"segments": [{"origin": "GUESS", "token_ids": [1]}],
                                          "train_context": None, "ratio_mode": "behaviour"}]}),
        json.dumps({**stored(), "rows": [{"segments": [{"origin": "MODEL", "token_ids": [1]}],
                                          "train_context": None, "ratio_mode": "behaviour"}]}),
        json.dumps({**stored(), "messages": [{"role": "user", "colour": "red"}]}),
    ],
)  # fmt: skip
def test_a_broken_line_is_a_user_s_error(line: str):
    with pytest.raises(UserError, match="not a trajectory line"):
        from_line(line)
