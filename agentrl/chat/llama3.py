"""Llama 3.1's format, written by hand after its published template.

Tools are described in the first user message; a call is one bare JSON object with `parameters`; a
tool's answer is JSON-quoted in a turn of role `ipython`. Content is stripped, so text that begins or
ends with blanks is not prefix-stable.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentrl.chat.base import Inline, Span, Tokenizer
from agentrl.chat.markup import Piece, assemble, control, to_json, tool_spec, trusted, world
from agentrl.errors import UserError
from agentrl.tool import Tool
from agentrl.transcript import Int32Array, Origin, ids_array
from agentrl.types import Message, ToolCall

_BEGIN, _HEAD, _HEAD_END = "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"
_EOT = "<|eot_id|>"
_STOPS = (_EOT, "<|eom_id|>", "<|end_of_text|>")
_TOOLS = (
    "Given the following functions, please respond with a JSON for a function call "
    "with its proper arguments that best answers the given prompt.\n\n"
    'Respond in the format {"name": function name, "parameters": dictionary of argument name '
    "and its value}.Do not use variables.\n\n"
)


class Llama3Renderer:
    """Renders the `llama-3` format."""

    name = "llama-3"

    def __init__(self, tokenizer: Tokenizer, date: str = "26 Jul 2024") -> None:
        """`date` is what the system message calls today. Raises UserError on missing tokens."""
        self.tokenizer = tokenizer
        self.date = date
        needed = (_BEGIN, _HEAD, _HEAD_END, _EOT)
        missing = [token for token in needed if tokenizer.special_id(token) is None]
        if missing:
            raise UserError(
                f"renderer 'llama-3' needs the token {missing[0]}, which this tokenizer lacks; "
                "choose the renderer of your model's family or an instruction-tuned model"
            )
        ids = [tokenizer.special_id(token) for token in _STOPS]
        self._stop_ids = tuple(token_id for token_id in ids if token_id is not None)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """`<|eot_id|>`, and the message's and text's ends where the vocabulary has them."""
        return self._stop_ids

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Int32Array:
        """The conversation as the published template writes it, with its generation prompt.

        Raises UserError where that template refuses: several calls in a message, tools without a
        message to put them in.
        """
        system = messages[0].content.strip() if messages and messages[0].role == "system" else ""
        rest = messages[1:] if messages and messages[0].role == "system" else messages
        about = "Environment: ipython\n" if tools else ""
        about += f"Cutting Knowledge Date: December 2023\nToday Date: {self.date}\n\n"
        pieces = [
            *(control(_BEGIN), *_header("system"), trusted(about), world(system), control(_EOT)),
            *(_with_tools(rest, tools) if tools else ()),
            *_body(rest[1:] if tools else rest),
            *_header("assistant"),
        ]
        return ids_array(assemble(self.tokenizer, pieces))

    def demo(self, text: str, *, ended: bool = False) -> Int32Array:
        """The model's own text with its tags, then `<|eot_id|>` if `ended`."""
        pieces = [trusted(text), *([control(_EOT)] if ended else [])]
        return ids_array(assemble(self.tokenizer, pieces))

    def write(self, message: Message) -> str:
        """The call of an assistant message as JSON, else its content."""
        return call_json(_only_call(message)) if message.tool_calls else message.content

    def delta(self, messages: Sequence[Message], *, ended: bool) -> tuple[Span, ...]:
        """Closer if needed, the messages, and the generation prompt."""
        return (
            *self.closing(ended=ended),
            self._span(Origin.OBSERVATION, _body(messages)),
            self._span(Origin.SCAFFOLD, _header("assistant")),
        )

    def inline(self, block: Inline) -> tuple[Span, ...]:
        """The block, its content as ordinary characters."""
        pieces = [trusted(block.before), world(block.content), trusted(block.after)]
        return (self._span(Origin.OBSERVATION, pieces),)

    def closing(self, *, ended: bool) -> tuple[Span, ...]:
        """`<|eot_id|>` unless the model wrote an end."""
        return () if ended else (self._span(Origin.SCAFFOLD, [control(_EOT)]),)

    def is_prefix_stable(self, messages: Sequence[Message]) -> bool:
        """Whether growing the row turn by turn gives `prompt_ids(messages)`."""
        texts = [self.write(message) for message in messages if message.role == "assistant"]
        return all(text == text.strip() for text in texts)

    def _span(self, origin: Origin, pieces: Sequence[Piece]) -> Span:
        return Span(origin, ids_array(assemble(self.tokenizer, pieces)))


def call_json(call: ToolCall) -> str:
    """A call as Llama writes it."""
    return f'{{"name": "{call.name}", "parameters": {to_json(call.arguments)}}}'


def _header(role: str) -> list[Piece]:
    return [control(_HEAD), trusted(role), control(_HEAD_END), trusted("\n\n")]


def _with_tools(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Piece]:
    if not messages:
        raise UserError("Llama-3 describes tools in the first user message; give it one")
    specs = [world(to_json(tool_spec(tool), indent=4) + "\n\n") for tool in tools]
    question = world(messages[0].content.strip())
    return [*_header("user"), trusted(_TOOLS), *specs, question, control(_EOT)]


def _body(messages: Sequence[Message]) -> list[Piece]:
    pieces: list[Piece] = []
    for message in messages:
        role = "ipython" if message.role == "tool" else message.role
        pieces += [*_header(role), _content(message), control(_EOT)]
    return pieces


def _content(message: Message) -> Piece:
    if message.role == "tool":
        return world(to_json(message.content))
    if message.role != "assistant":
        return world(message.content.strip())
    if message.tool_calls:
        return trusted(call_json(_only_call(message)))
    return trusted(message.content.strip())


def _only_call(message: Message) -> ToolCall:
    if len(message.tool_calls) != 1:
        raise UserError("Llama-3 writes one tool call per message; split the message")
    return message.tool_calls[0]


__all__ = ["Llama3Renderer", "call_json"]
