"""Requests read and written back: what cannot be honoured is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.chat.markup import tool_spec
from agentrl.serve.gateway.rewards import read_rewards
from agentrl.serve.gateway.wire import ApiError, message_json, read_request, tool_specs
from agentrl.types import Message, ToolCall
from agentrl_tools.python import PythonTool

USER = {"role": "user", "content": "Q"}
names = st.text("abc_", min_size=1, max_size=5)
arguments = st.dictionaries(names, st.one_of(st.integers(), st.text(), st.booleans()), max_size=3)
calls = st.builds(ToolCall, names, names, arguments)
messages = st.one_of(
    st.builds(Message, st.sampled_from(["system", "user"]), st.text()),
    st.builds(
        Message,
        st.just("assistant"),
        st.text(),
        st.lists(calls, max_size=2).map(tuple),
        reasoning=st.one_of(st.none(), st.text()),
    ),
    st.builds(Message, st.just("tool"), st.text(), call_id=names),
)


@given(st.lists(messages, min_size=1, max_size=4))
def test_messages_survive_being_sent(sent: list[Message]):
    body = json.loads(json.dumps({"messages": [message_json(m) for m in sent]}))
    assert read_request(body).messages == tuple(sent)


def test_tools_survive_being_sent():
    """A template shows the same description, whoever offers the tool."""
    tool = PythonTool()
    (offered,) = read_request({"messages": [USER], "tools": tool_specs([tool])}).tools
    assert tool_spec(offered) == tool_spec(tool)


def test_text_parts_and_developers():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = {"messages": [{"role": "developer", "content": parts}, USER]}
    assert read_request(body).messages[0] == Message("system", "ab")


def test_the_newer_name_of_the_budget_wins():
    body = {"messages": [USER], "max_tokens": 5, "max_completion_tokens": 3, "stop": "x"}
    request = read_request(body)
    assert (request.max_tokens, request.stop) == (3, ("x",))


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Q"}, "messages"),
        ({"messages": [{"role": "robot"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"n": 0}, "n"),
        ({"n": 65}, "n"),
        ({"n": True}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"stop": [""]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tool_choice": "none"}, "tool_choice"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)  # fmt: skip
def test_refusals_name_the_parameter(field: dict[str, Any], param: str):
    with pytest.raises(ApiError) as refused:
        read_request({"messages": [USER], **field})
    error = refused.value
    assert (error.param, error.status, error.kind) == (param, 400, "invalid_request_error")


def test_settings_that_change_nothing_are_taken():
    body = {"messages": [USER], "user": "me", "frequency_penalty": 0, "tool_choice": "required"}
    assert read_request(body).n == 1


def test_rewards():
    assert read_rewards({"reward": 1, "components": {"style": 0.5}}) == {"env": 1.0, "style": 0.5}
    for bad in (
        {},
        {"reward": True},
        {"reward": float("nan")},
        {"reward": 1, "components": {"env": 1}},
    ):
        with pytest.raises(ApiError):
            read_rewards(bad)
