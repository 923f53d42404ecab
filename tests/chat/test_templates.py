"""Hand-written renderers against the published templates, and rows grown turn by turn.

The published text is tokenised by the wrapped transformers tokenizer, control tokens recognised; the
renderer must give the same ids.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agentrl.chat.base import Renderer
from agentrl.chat.chatml import qwen3, qwen3_instruct, qwen3_no_thinking, qwen25
from agentrl.chat.doctor import grow
from agentrl.chat.llama3 import Llama3Renderer
from agentrl.chat.markup import tool_spec
from agentrl.chat.nano import NanoRenderer
from agentrl.chat.tokenizers import HFTokenizer, plain_message
from agentrl.errors import UserError
from agentrl.tool import Tool, tool
from agentrl.types import JsonValue, Message, ToolCall

N = 250
WORDS = (
    *(
        "Hello",
        "x = 3",
        "",
        "\n",
        "\n\nfoo",
        " leading",
        "trailing \n",
        "1234",
        "Grüße",
        "你好",
        "🙂",
    ),
    *("{'a': 1}", '"quoted"', "<b>html & more</b>", "a\r\nb", "\tindented", "don't", "it's 42%"),
    *("<tools>", "def f(x):\n    return x\n", "\\boxed{5}", "e\u0301", "<tool_response"),
)


@tool
async def python(code: str) -> str:
    """Run Python code and return what it prints, e.g. "5" & more.

    Args:
        code: The code to run; Ünïcode too.
    """
    return code


@tool
async def search(query: str, top_k: int = 3) -> str:
    """Search the web.

    Args:
        query: What to look for.
    """
    return query * top_k


def text(rng: random.Random) -> str:
    return "".join(rng.choices(WORDS, k=rng.choice((0, 1, 1, 2, 3))))


def argument(rng: random.Random) -> JsonValue:
    scalars: list[JsonValue] = [text(rng), rng.randrange(100), 1.5, None, True]
    return rng.choice([*scalars, [1, "é"], {"k": text(rng)}])


def calls(rng: random.Random, most: int) -> tuple[ToolCall, ...]:
    names = [rng.choice(("python", "search")) for _ in range(rng.randrange(1, most + 1))]
    return tuple(
        ToolCall(f"call_{i}", name, {k: argument(rng) for k in ("code", "x")[: rng.randrange(3)]})
        for i, name in enumerate(names)
    )


def conversation(rng: random.Random, *, parallel: int, thinking: bool) -> list[Message]:
    """Turns of every kind: single, serial and parallel calls, empty content, thinking."""
    messages = [Message("system", text(rng))] if rng.random() < 0.5 else []
    for _ in range(rng.randrange(1, 4)):
        messages.append(Message("user", text(rng)))
        for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
            called = calls(rng, parallel)
            thought = text(rng) if thinking and rng.random() < 0.5 else None
            content = text(rng) if rng.random() < 0.5 else ""
            messages.append(Message("assistant", content, called, reasoning=thought))
            messages += [Message("tool", text(rng), call_id=c.id, name=c.name) for c in called]
        if rng.random() < 0.7:
            thought = text(rng) if thinking and rng.random() < 0.5 else None
            content = text(rng)
            if thinking and rng.random() < 0.2:
                content = f"<think>\n{text(rng)}\n</think>\n\n{content}"
            messages.append(Message("assistant", content, reasoning=thought))
        elif rng.random() < 0.2:
            messages.append(Message("system", text(rng)))
    return messages


def corpus(*, parallel: int = 3, thinking: bool = False) -> list[tuple[list[Message], list[Tool]]]:
    rng = random.Random(7)
    offers: list[list[Tool]] = [[], [], [python], [python, search]]
    return [
        (conversation(rng, parallel=parallel, thinking=thinking), rng.choice(offers))
        for _ in range(N)
    ]


def render(template: str, messages: Sequence[Message], tools: Sequence[Tool], **more: Any) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    (rendered,), _ = render_jinja_template(
        conversations=[[plain_message(m) for m in messages]],
        tools=[tool_spec(t) for t in tools] or None,
        chat_template=template,
        add_generation_prompt=True,
        **more,
    )
    return rendered


CASES = {
    "qwen2.5": (qwen25, "qwen25", "qwen2_5", {}, {}),
    "qwen3": (qwen3, "qwen3", "qwen3", {"thinking": True}, {}),
    "qwen3-no-thinking": (
        qwen3_no_thinking,
        *("qwen3", "qwen3", {"thinking": True}, {"enable_thinking": False}),
    ),
    "qwen3-instruct": (qwen3_instruct, "qwen3", "qwen3_instruct_2507", {}, {}),
    "llama-3": (
        Llama3Renderer,
        *("llama", "llama3_1", {"parallel": 1}, {"bos_token": "<|begin_of_text|>"}),
    ),
}


@pytest.mark.parametrize("name", list(CASES))
def test_ids_equal_the_published_template(
    name: str, published: Callable[[str], str], request: pytest.FixtureRequest
) -> None:
    make, vocabulary, template, kinds, more = CASES[name]
    wrapped = request.getfixturevalue(f"{vocabulary}_hf")
    renderer = make(request.getfixturevalue(f"{vocabulary}_tokenizer"))
    for messages, tools in corpus(**kinds):
        expected = render(published(template), messages, tools, **more)
        ids = renderer.prompt_ids(messages, tools)
        assert renderer.tokenizer.decode(ids) == wrapped.decode(
            wrapped.encode(expected, add_special_tokens=False), clean_up_tokenization_spaces=False
        )
        assert ids.tolist() == wrapped.encode(expected, add_special_tokens=False)


@pytest.mark.parametrize("name", [*CASES, "nano"])
def test_a_stable_conversation_grows_into_its_whole(
    name: str, request: pytest.FixtureRequest
) -> None:
    """Equal wherever `is_prefix_stable` says so; every conversation that differs is detected."""
    if name == "nano":
        renderer: Renderer = NanoRenderer(request.getfixturevalue("nano_tokenizer"))
        kinds: dict[str, Any] = {"thinking": True}
    else:
        make, vocabulary, _, kinds, _ = CASES[name]
        renderer = make(request.getfixturevalue(f"{vocabulary}_tokenizer"))
    stable = different = 0
    for messages, _ in corpus(**kinds):
        equal = grow(renderer, messages).tolist() == renderer.prompt_ids(messages).tolist()
        different += not equal
        if renderer.is_prefix_stable(messages):
            stable += 1
            assert equal, messages
    assert stable >= (N if name == "nano" else 10)
    assert different >= {"qwen3": 60, "qwen3-no-thinking": 100, "llama-3": 30}.get(name, 0)


USER, TOOL = Message("user", "Q"), Message("tool", "5", call_id="c")
CALL = ToolCall("c", "python", {"code": "1"})


@pytest.mark.parametrize(
    ("stable", "messages"),
    [
        (True, [USER]),
        (True, [USER, Message("assistant", "A"), USER]),
        (True, [USER, Message("assistant", "", (CALL,), reasoning="R"), TOOL]),
        (True, [USER, Message("assistant", "A", (CALL, CALL)), TOOL, TOOL]),
        (True, [USER, Message("assistant", "A", (CALL,)), TOOL, Message("assistant", "B"), USER]),
        (False, [USER, Message("assistant", "A", reasoning="R"), USER]),
        (False, [USER, Message("assistant", "", (CALL,), reasoning="R"), TOOL, USER]),
        (False, [USER, Message("assistant", "<think>\nR\n</think>\n\nA"), USER]),
        (False, [USER, Message("assistant", "A")]),
        (False, [USER, Message("assistant", "\n\nA"), USER]),
    ],
)
def test_which_qwen3_conversations_are_stable(
    stable: bool, messages: list[Message], qwen3_tokenizer: HFTokenizer
) -> None:
    """Stable: no thinking before the last query, and thinking kept in tool turns after it."""
    renderer = qwen3(qwen3_tokenizer)
    assert renderer.is_prefix_stable(messages) is stable
    equal = grow(renderer, messages).tolist() == renderer.prompt_ids(messages).tolist()
    assert equal is stable


def test_a_tool_response_in_disguise_is_no_query(
    qwen3_tokenizer: HFTokenizer, published: Callable[[str], str]
) -> None:
    """Its tags stay characters here, so the texts are compared, not the ids."""
    disguised = Message("user", "<tool_response>\n5\n</tool_response>")
    thinking = Message("assistant", "A", reasoning="R")
    for messages in ([USER, thinking, disguised], [disguised, thinking], [USER, disguised]):
        shown = qwen3_tokenizer.decode(qwen3(qwen3_tokenizer).prompt_ids(messages))
        assert shown == render(published("qwen3"), messages, [])


def test_qwen25_prompt_by_hand(qwen25_tokenizer: HFTokenizer) -> None:
    renderer = qwen25(qwen25_tokenizer)
    ids = renderer.prompt_ids([Message("system", "Hi"), Message("user", "2+3")])
    system = [151644, 8948, 198, 13048, 151645, 198]
    user = [151644, 872, 198, 17, 10, 18, 151645, 198]
    assert ids.tolist() == [*system, *user, 151644, 77091, 198]
    spans = renderer.delta([Message("tool", "5")], ended=False)
    assert [span.origin.name for span in spans] == ["SCAFFOLD", "OBSERVATION", "SCAFFOLD"]
    assert spans[0].token_ids.tolist() == [151645, 198]
    assert spans[2].token_ids.tolist() == [151644, 77091, 198]
    assert renderer.delta([TOOL], ended=True)[0].token_ids.tolist() == [198]
    assert renderer.closing(ended=True) == ()
    assert renderer.closing(ended=False)[0].token_ids.tolist() == [151645]
    assert renderer.stop_ids == (151645, 151643)


def test_llama_refuses_what_its_template_refuses(
    llama_tokenizer: HFTokenizer, published: Callable[[str], str]
) -> None:
    from jinja2.exceptions import TemplateError

    renderer = Llama3Renderer(llama_tokenizer)
    for messages, tools in (
        ([USER, Message("assistant", "", (CALL, CALL))], []),
        ([Message("system", "S")], [python]),
    ):
        with pytest.raises(TemplateError):
            render(published("llama3_1"), messages, tools, bos_token="")
        with pytest.raises(UserError, match=r"Llama-3 (writes one|describes tools)"):
            renderer.prompt_ids(messages, tools)
    today = Llama3Renderer(llama_tokenizer, date="01 Jan 2030").prompt_ids([USER])
    assert "Today Date: 01 Jan 2030\n\n<|eot_id|>" in llama_tokenizer.decode(today)
