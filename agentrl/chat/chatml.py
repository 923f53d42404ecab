"""ChatML as the Qwen families speak it, written by hand after their published templates.

`prompt_ids` equals the published template on every conversation. Row growth (`demo` + `delta`)
equals it where `is_prefix_stable` says so: Qwen3's template drops the thinking of earlier turns,
while a row keeps what was sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentrl.chat.base import Inline, Span, Tokenizer
from agentrl.chat.markup import (
    Piece,
    assemble,
    call_block,
    control,
    to_json,
    tool_spec,
    trusted,
    world,
)
from agentrl.errors import UserError
from agentrl.tool import Tool
from agentrl.transcript import Int32Array, Origin, ids_array
from agentrl.types import Message

_START, _END, _TEXT_END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
_TOOLS_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_TOOLS_TAIL = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
_NO_THOUGHT = "<think>\n\n</think>\n\n"


@dataclass(frozen=True, slots=True)
class Family:
    """What tells one ChatML family from another."""

    name: str
    default_system: str | None
    """System message of conversations that bring none."""
    drops_thinking: bool = False
    """Whether thinking before the last user query is left out (Qwen3's hybrid models)."""
    opening: str = ""
    """Trusted text that opens each generated turn."""


QWEN25 = Family("qwen2.5", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.")
QWEN3 = Family("qwen3", None, drops_thinking=True)
QWEN3_NO_THINKING = Family("qwen3-no-thinking", None, drops_thinking=True, opening=_NO_THOUGHT)
QWEN3_INSTRUCT = Family("qwen3-instruct", None)


class ChatMLRenderer:
    """Renders one ChatML family."""

    def __init__(self, tokenizer: Tokenizer, family: Family) -> None:
        """Raises UserError when `tokenizer` lacks `<|im_start|>` or `<|im_end|>`."""
        self.tokenizer = tokenizer
        self.family = family
        missing = [token for token in (_START, _END) if tokenizer.special_id(token) is None]
        if missing:
            raise UserError(
                f"renderer {family.name!r} needs the token {missing[0]}, which this tokenizer "
                "lacks; choose the renderer of your model's family or an instruction-tuned model"
            )
        ends = (tokenizer.special_id(_END), tokenizer.special_id(_TEXT_END))
        self._stop_ids = tuple(token_id for token_id in ends if token_id is not None)

    @property
    def name(self) -> str:
        """The family's name."""
        return self.family.name

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """`<|im_end|>`, and `<|endoftext|>` where the vocabulary has it."""
        return self._stop_ids

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Int32Array:
        """The conversation as the published template writes it, with its generation prompt."""
        pieces = [*self._head(messages, tools), *self._body(messages, first=True), *self._prompt()]
        return ids_array(assemble(self.tokenizer, pieces))

    def demo(self, text: str, *, ended: bool = False) -> Int32Array:
        """The model's own text with its tags, then `<|im_end|>` if `ended`."""
        pieces = [trusted(text), *([control(_END)] if ended else [])]
        return ids_array(assemble(self.tokenizer, pieces))

    def write(self, message: Message) -> str:
        """Thinking, content and calls of an assistant message, as the model writes them."""
        return _assistant_text(message.content, message.reasoning, message)

    def delta(self, messages: Sequence[Message], *, ended: bool) -> tuple[Span, ...]:
        """Closer and newline, the messages, and the generation prompt."""
        closer = [trusted("\n")] if ended else [control(_END), trusted("\n")]
        return (
            self._span(Origin.SCAFFOLD, closer),
            self._span(Origin.OBSERVATION, self._body(messages, first=False)),
            self._span(Origin.SCAFFOLD, self._prompt()),
        )

    def inline(self, block: Inline) -> tuple[Span, ...]:
        """The block, its content as ordinary characters."""
        pieces = [trusted(block.before), world(block.content), trusted(block.after)]
        return (self._span(Origin.OBSERVATION, pieces),)

    def closing(self, *, ended: bool) -> tuple[Span, ...]:
        """`<|im_end|>` unless the model wrote it."""
        return () if ended else (self._span(Origin.SCAFFOLD, [control(_END)]),)

    def is_prefix_stable(self, messages: Sequence[Message]) -> bool:
        """Whether growing the row turn by turn gives `prompt_ids(messages)`."""
        turns = [(i, m) for i, m in enumerate(messages) if m.role == "assistant"]
        if turns and self.family.opening:
            return False
        return all(
            (text := self.write(message)) == self._rendered(messages, i) and not text[:1].isspace()
            for i, message in turns
        )

    def _span(self, origin: Origin, pieces: Sequence[Piece]) -> Span:
        return Span(origin, ids_array(assemble(self.tokenizer, pieces)))

    def _prompt(self) -> list[Piece]:
        return [control(_START), trusted(f"assistant\n{self.family.opening}")]

    def _head(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[Piece]:
        given = messages[0].content if messages and messages[0].role == "system" else None
        system = self.family.default_system if given is None else given
        if not tools and system is None:
            return []
        text = [] if system is None else [world(system)]
        if tools:
            specs = [world("\n" + to_json(tool_spec(tool))) for tool in tools]
            gap = "" if system is None else "\n\n"
            text = [*text, trusted(gap + _TOOLS_HEAD), *specs, trusted(_TOOLS_TAIL)]
        return [control(_START), trusted("system\n"), *text, control(_END), trusted("\n")]

    def _body(self, messages: Sequence[Message], *, first: bool) -> list[Piece]:
        """All messages but a leading system one, which `_head` has written."""
        pieces: list[Piece] = []
        for i, message in enumerate(messages):
            if message.role == "tool":
                opens = i == 0 or messages[i - 1].role != "tool"
                closes = i + 1 == len(messages) or messages[i + 1].role != "tool"
                pieces += [control(_START), trusted("user")] if opens else []
                pieces += [trusted("\n<tool_response>\n"), world(message.content)]
                pieces += [trusted("\n</tool_response>")]
                pieces += [control(_END), trusted("\n")] if closes else []
            elif not (first and i == 0 and message.role == "system"):
                own = message.role == "assistant"
                text = trusted(self._rendered(messages, i)) if own else world(message.content)
                start = [control(_START), trusted(f"{message.role}\n")]
                pieces += [*start, text, control(_END), trusted("\n")]
        return pieces

    def _rendered(self, messages: Sequence[Message], i: int) -> str:
        """An assistant message's text as the published template shows it at place `i`."""
        message = messages[i]
        if not self.family.drops_thinking:
            return _assistant_text(message.content, None, message)
        content, reasoning = message.content, message.reasoning
        if reasoning is None:
            reasoning, content = _extract_thinking(content)
        shown = i > _last_query(messages) and (i + 1 == len(messages) or reasoning)
        return _assistant_text(content, reasoning if shown else None, message)


def _assistant_text(content: str, reasoning: str | None, message: Message) -> str:
    """Thinking if not None, then content and calls, one per line."""
    text = content
    if reasoning is not None:
        text = "<think>\n" + reasoning.strip("\n") + "\n</think>\n\n" + content.lstrip("\n")
    for i, call in enumerate(message.tool_calls):
        text += ("\n" if i or content else "") + call_block(call)
    return text


def _extract_thinking(content: str) -> tuple[str, str]:
    """Thinking and the rest of a content that holds both; thinking is empty where none is marked."""
    if "</think>" not in content:
        return "", content
    before = content.split("</think>")[0].rstrip("\n")
    rest = content.split("</think>")[-1].lstrip("\n")
    return before.split("<think>")[-1].lstrip("\n"), rest


def _last_query(messages: Sequence[Message]) -> int:
    """Index of the last user message that is not a tool response in disguise."""
    for i in range(len(messages) - 1, -1, -1):
        text = messages[i].content
        wrapped = text.startswith("<tool_response>") and text.endswith("</tool_response>")
        if messages[i].role == "user" and not wrapped:
            return i
    return len(messages) - 1


def qwen25(tokenizer: Tokenizer) -> ChatMLRenderer:
    """The `qwen2.5` renderer (Qwen2, Qwen2.5 and QwQ-style instruction models)."""
    return ChatMLRenderer(tokenizer, QWEN25)


def qwen3(tokenizer: Tokenizer) -> ChatMLRenderer:
    """The `qwen3` renderer: hybrid models, thinking on."""
    return ChatMLRenderer(tokenizer, QWEN3)


def qwen3_no_thinking(tokenizer: Tokenizer) -> ChatMLRenderer:
    """The `qwen3-no-thinking` renderer: hybrid models, each turn opened by an empty thought."""
    return ChatMLRenderer(tokenizer, QWEN3_NO_THINKING)


def qwen3_instruct(tokenizer: Tokenizer) -> ChatMLRenderer:
    """The `qwen3-instruct` renderer: Qwen3-Instruct-2507, which never thinks."""
    return ChatMLRenderer(tokenizer, QWEN3_INSTRUCT)


__all__ = [
    "QWEN3",
    "QWEN3_INSTRUCT",
    "QWEN3_NO_THINKING",
    "QWEN25",
    "ChatMLRenderer",
    "Family",
    "qwen3",
    "qwen3_instruct",
    "qwen3_no_thinking",
    "qwen25",
]
