"""What each protocol reads and writes, case by case; texts worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from agentrl.chat.base import Inline, Messages, ToolProtocol
from agentrl.chat.nano import NanoRenderer
from agentrl.chat.opening import open_conversation, opening_ids
from agentrl.chat.protocols.fenced import Fenced
from agentrl.chat.protocols.fences import fenced, find_fences
from agentrl.chat.protocols.hermes import Hermes
from agentrl.chat.protocols.llama_json import LlamaJson
from agentrl.chat.protocols.retool import ReTool, retool_bare
from agentrl.chat.protocols.search_r1 import SearchR1, search_r1_bare
from agentrl.chat.protocols.text import split_thinking, unseen
from agentrl.chat.tokenizers import HFTokenizer
from agentrl.env import Action
from agentrl.tool import tool
from agentrl.transcript import ids_array
from agentrl.types import Message

NONE = ids_array([])


@tool
async def python(code: str) -> str:
    """Run Python code."""
    return code


def read(protocol: ToolProtocol, text: str) -> Action:
    action = protocol.parse(NONE, text, turn=2)
    assert action.text == text
    assert action.parse_error is None or not action.tool_calls
    return action


def called(protocol: ToolProtocol, text: str) -> list[tuple[str, str, dict[str, Any]]]:
    action = read(protocol, text)
    assert action.parse_error is None, action.parse_error
    return [(call.id, call.name, dict(call.arguments)) for call in action.tool_calls]


def code(text: str) -> list[tuple[str, str, dict[str, Any]]]:
    return [("call_2_0", "python", {"code": text})]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Let me see. <code>\n```python\nprint(1)\n```\n</code>", "print(1)"),
        ("<code>\n```py\na\n\nb\n```\n</code>\n", "a\n\nb"),
        ("<code>print(1)</code>", "print(1)"),
        ("<code>\n```python\nold\n```\nno:\n```python\nnew\n```</code>", "new"),
        ("<code>1</code> <code>2</code>", "2"),
        ("<code>\n````python\nx = '''\n```\n'''\n````\n</code>", "x = '''\n```\n'''"),
    ],
)
def test_retool_reads(text: str, expected: str) -> None:
    assert called(ReTool(), text) == code(expected)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<code>print(1)", "There is no </code>"),
        ("print(1)</code>", "There is no <code>"),
        ("<code>\n```python\nprint(1)\n</code>", "fence inside <code> is not closed"),
        ("<code>\n```python\n\n```\n</code>", "The <code> block is empty"),
        ("<code> </code>", "The <code> block is empty"),
    ],
)
def test_retool_teaches(text: str, problem: str) -> None:
    error = read(ReTool(), text).parse_error
    assert error is not None
    assert problem in error
    assert error.endswith("Write code as:\n<code>\n```python\nprint(2 + 3)\n```\n</code>")


def test_bare_retool() -> None:
    protocol = retool_bare()
    assert (protocol.name, ReTool().name, protocol.stops) == ("retool_bare", "retool", ("</code>",))
    assert called(protocol, "7*6? <code>print(7*6)</code>") == code("print(7*6)")
    assert called(protocol, "<code> x\n</code>") == code(" x\n")
    assert called(protocol, "<answer>42</answer>") == []
    assert protocol.call_text("python", {"code": "print(1)"}) == "<code>print(1)</code>"
    error = read(protocol, "<code></code>").parse_error
    assert error is not None
    assert error.endswith("Write code as:\n<code>print(2 + 3)</code>")


def test_thinking_is_told_apart() -> None:
    assert read(ReTool(), "<think>\nA\n</think>\n\nB").reasoning == "A"
    assert split_thinking("A</think>B") == ("A", "B", False)
    assert split_thinking("<think>A") == ("A", "", True)
    assert split_thinking("A") == (None, "A", False)
    assert split_thinking("A<think>B") == (None, "A<think>B", False)
    tags = ("<c>", "</c>")
    assert split_thinking("<c></think></c>", tags) == (None, "<c></think></c>", False)
    assert split_thinking("A</think><c></think></c>", tags) == ("A", "<c></think></c>", False)


def test_inline_results_follow_the_papers() -> None:
    five = [Message("tool", "5\n", call_id="call_2_0")]
    assert ReTool().present(five) == Inline("\n<interpreter>\n", "5\n", "</interpreter>\n\n")
    both = ReTool().present([*five, Message("tool", "6")])
    assert both == Inline("\n<interpreter>\n", "5\n\n6", "\n</interpreter>\n\n")
    assert retool_bare().present(five) == Inline("<interpreter>", "5", "</interpreter>")
    assert Fenced().present(five) == Inline("\n", "5\n", "```\n")
    found = SearchR1().present([Message("tool", "Doc 1(Title: T) x")])
    assert found == Inline("\n\n<information>", "Doc 1(Title: T) x", "</information>\n\n")


@pytest.mark.parametrize(
    "protocol", [ReTool(), retool_bare(), Fenced(), SearchR1(), search_r1_bare(), Hermes()]
)
def test_an_ended_turn_and_other_messages_get_messages(protocol: ToolProtocol) -> None:
    result = Message("tool", "5")
    user = Message("user", "Wrong, try again")
    assert protocol.present([result], ended=True) == Messages((result,))
    assert protocol.present([result, user]) == Messages((result, user))
    assert protocol.present([]) == Messages(())


def test_overshoot_is_not_shown_twice() -> None:
    """A token `>\\n` closes the stop string: the newline is in the row already."""
    result = [Message("tool", "5")]
    text = "<code>1</code>\n"
    shown = ReTool().present(result, text=text)
    assert isinstance(shown, Inline)
    assert text + shown.text == "<code>1</code>\n<interpreter>\n5\n</interpreter>\n\n"
    shown = Fenced().present(result, text="```output\n")
    assert isinstance(shown, Inline)
    assert shown.before == ""
    shown = SearchR1().present(result, text="<search> q </search>\n")
    assert isinstance(shown, Inline)
    assert shown.before == "\n<information>"
    assert unseen("\n<x>", "a</s> b", "</s>") == "\n<x>"
    assert unseen("\n<x>", "a", "</s>") == "\n<x>"


def test_fenced() -> None:
    protocol = Fenced()
    call = "```python\nprint(1)\n```\n"
    assert called(protocol, f"So:\n{call}```output") == code("print(1)")
    assert called(protocol, f"So:\n{call}") == code("print(1)")
    assert called(protocol, f"{call}The block above computes 1.") == []
    assert called(protocol, "```js\n1\n```") == []
    assert called(protocol, "\\boxed{1}") == []
    for text, problem in (
        ("```output", "no Python block"),
        (f"{call}hm\n```output", "does not follow"),
        ("```python\nprint(1)\n", "not closed"),
        ("```python\n \n```\n```output", "empty"),
    ):
        error = read(protocol, text).parse_error
        assert error is not None
        assert problem in error
        assert error.endswith("```python\nprint(2 + 3)\n```\n```output")
    with pytest.raises(ValueError, match="output in it"):
        protocol.call_text("python", {"code": "'```output'"})


def test_fences() -> None:
    (first, second) = find_fences("a\n```py\nx\n```\n``` \n````python")
    assert (first.language, first.code, first.closed) == ("py", "x", True)
    assert "a\n```py\nx\n```\n"[first.start : first.end] == "```py\nx\n```"
    assert (second.language, second.code, second.closed) == ("", "````python", False)
    assert fenced("a\n```\nb") == "````python\na\n```\nb\n````"


def test_hermes_reads_parallel_calls_after_the_thinking() -> None:
    one = '<tool_call>\n{"name": "python", "arguments": {"code": "a"}}\n</tool_call>'
    two = '<tool_call>{"arguments": {"q": [1, {"k": null}]}, "name": "search"} </tool_call>'
    both = [
        ("call_2_0", "python", {"code": "a"}),
        ("call_2_1", "search", {"q": [1, {"k": None}]}),
    ]
    assert called(Hermes(), f"{one}\n{two}") == both
    assert called(Hermes(), f"<think>{one} broken <tool_call></think>{two}")[0][1] == "search"
    assert called(Hermes(), f"<think>{one}") == []
    tricky = Hermes().call_text("python", {"code": "print('</tool_call>')"})
    assert called(Hermes(), tricky) == code("print('</tool_call>')")
    assert called(Hermes(), '<tool_call>{"name": "now"}</tool_call>') == [("call_2_0", "now", {})]
    assert called(Hermes(), "plain") == []
    assert read(Hermes(), one).tool_calls[0].raw == one


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('{"name": "f", "arguments": {"a": 1}', "Expecting ',' delimiter at character 36"),
        ('{"name": "f" "arguments": {}}', 'at character 13, near \'{"name": "f" "arguments": {}\''),
        ("", "Expecting value at character 0"),
        ("[]", 'must be a JSON object with "name" and "arguments"'),
        ('{"arguments": {}}', 'no "name"'),
        ('{"name": 3, "arguments": {}}', 'no "name"'),
        ('{"name": "f", "parameters": {}}', '"arguments" must be a JSON object'),
        ('{"name": "f", "arguments": "{}"}', '"arguments" must be a JSON object'),
        ('{"name": "f", "arguments": {"a": NaN}}', "NaN is not JSON"),
        ('{"name": "f", "arguments": {"a": "\\ud800"}}', "cannot be read"),
        ('{"name": "f", "arguments": {"a": ' + "9" * 5000 + "}}", "cannot be read"),
        ("[" * 100_000, "nested too deeply"),
        ('{"name": "f", "arguments": {"a": ' + "[" * 70 + "]" * 70 + "}}", "nested too deeply"),
        ('{"name": "f", "arguments": {}} and', "comes 'and\\n</tool_call>', not </tool_call>"),
    ],
)
def test_hermes_teaches(body: str, problem: str) -> None:
    error = read(Hermes(), f"<tool_call>\n{body}\n</tool_call>").parse_error
    assert error is not None
    assert problem in error
    assert '{"name": "tool_name", "arguments": {"argument": "value"}}' in error


def test_hermes_unclosed_tags() -> None:
    open_call = '<tool_call>\n{"name": "f", "arguments": {}}'
    for text, problem in ((open_call, "no </tool_call>"), ("{}\n</tool_call>", "without its")):
        error = read(Hermes(), text).parse_error
        assert error is not None
        assert problem in error
    with pytest.raises(ValueError, match="cannot name"):
        Hermes().call_text('a"b', {})


def test_search_r1() -> None:
    protocol = SearchR1()
    text = "<think>x</think> <search> who? </search> <search> b </search>"
    assert called(protocol, text) == [("call_2_0", "search", {"query": "who?"})]
    assert called(protocol, "<answer> Beijing </answer>") == []
    for text, problem in (("Beijing", "no complete"), ("<search> </search>", "empty")):
        error = read(protocol, text).parse_error
        assert error is not None
        assert problem in error
        assert "<search> query </search>" in error
    with pytest.raises(ValueError, match="without blanks"):
        protocol.call_text("search", {"query": " a"})


def test_search_r1_bare() -> None:
    """The same actions in fewer characters."""
    protocol = search_r1_bare()
    assert protocol.tool_prompt([python]) == "Tools: search"
    assert protocol.tool_prompt([]) == ""
    assert protocol.call_text("search", {"query": "who?"}) == "<search>who?</search>"
    assert called(protocol, "<search>who?</search>") == [("call_2_0", "search", {"query": "who?"})]
    assert read(protocol, "who?").parse_error == "There is no complete search or answer."
    found = protocol.present([Message("tool", "T: x\n")])
    assert found == Inline("<information>", "T: x", "</information>")


def test_llama_json() -> None:
    text = '{"name": "python", "parameters": {"code": "1"}}'
    assert called(LlamaJson(), text) == code("1")
    assert called(LlamaJson(), f"<|python_tag|>{text}\n") == code("1")
    assert called(LlamaJson(), "{x: 1} is a set") == []
    for bad, problem in ((text[:-1], "delimiter"), (text + text, "nothing else")):
        error = read(LlamaJson(), bad).parse_error
        assert error is not None
        assert problem in error


@pytest.mark.parametrize(
    "protocol", [ReTool(), retool_bare(), Fenced(), SearchR1(), search_r1_bare()]
)
def test_experts_cannot_write_what_would_be_misread(protocol: ToolProtocol) -> None:
    key = "query" if protocol.name.startswith("search_r1") else "code"
    name = "search" if key == "query" else "python"
    for arguments in ({key: ""}, {key: 3}, {}, {key: "1", "x": "2"}):
        with pytest.raises(ValueError, match=r"writes|cannot write"):
            protocol.call_text(name, arguments)
    with pytest.raises(ValueError, match="writes only"):
        protocol.call_text("other", {key: "1"})


def test_opening_merges_instructions(nano_tokenizer: HFTokenizer) -> None:
    user = Message("user", "1+1")
    bare = open_conversation(retool_bare(), [user], [python])
    assert bare.messages == (Message("system", "Tools: python"), user)
    assert bare.tools == ()
    merged = open_conversation(retool_bare(), [Message("system", "S"), user], [python])
    assert merged.messages == (Message("system", "S\n\nTools: python"), user)
    assert open_conversation(retool_bare(), [user]).messages == (user,)
    hermes = open_conversation(Hermes(), [user], [python])
    assert (hermes.messages, hermes.tools) == ((user,), (python,))
    named = NanoRenderer(nano_tokenizer).prompt_ids([user], [python])
    assert nano_tokenizer.decode(named).startswith("<|system|>Tools: python<|end|><|user|>")
    for protocol in (ReTool(), Fenced(), SearchR1()):
        assert "- python: Run Python code." in protocol.tool_prompt([python])
        assert protocol.tool_prompt([]) == ""
    ids = opening_ids(NanoRenderer(nano_tokenizer), retool_bare(), [user], [python])
    assert ids.tolist() == [258, *b"Tools: python", 260, 257, *b"1+1", 260, 259]
