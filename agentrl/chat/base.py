"""The chat contracts: renderers turn messages into ids; protocols say how tools are called in text.

A renderer is one template family, written by hand. It encodes the first messages once; after that
only deltas, with special tokens disabled, so that text from the world can never forge a control
token. A protocol knows text alone.

Three kinds of ids: *control* tokens (`<|im_end|>`) are placed by the renderer only; *tags*
(`<think>`, `<tool_call>`) are single ids that a model writes in its own text, so trusted text may
contain them; all other text is encoded as ordinary characters, whatever it spells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from agentrl.env import Action
from agentrl.tool import Tool
from agentrl.transcript import Int32Array, Origin
from agentrl.types import JsonValue, Message


@runtime_checkable
class Tokenizer(Protocol):
    """The little a renderer needs of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Ids are below this, added tokens included."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of untrusted text; control strings and tags in it become ordinary characters."""
        ...

    def encode_markup(self, text: str) -> list[int]:
        """Ids of trusted text: tags become their single ids, control strings stay characters."""
        ...

    def decode(self, token_ids: Sequence[int] | Int32Array) -> str:
        """Text of ids, control tokens included as their names; invalid bytes become U+FFFD."""
        ...

    def special_id(self, token: str) -> int | None:
        """Id of a control token or tag; None when the vocabulary lacks it."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Some ids and who wrote them."""

    origin: Origin
    token_ids: Int32Array


@dataclass(frozen=True, slots=True)
class Inline:
    """Results placed inside the assistant's own turn: trusted wrapper around untrusted content."""

    before: str
    """Trusted text, tags included, that opens the block."""
    content: str
    """What the world wrote; encoded as ordinary characters."""
    after: str
    """Trusted text that closes the block."""

    @property
    def text(self) -> str:
        """The whole block as one string."""
        return self.before + self.content + self.after


@dataclass(frozen=True, slots=True)
class Messages:
    """Results sent as messages of their own."""

    messages: tuple[Message, ...]


Presented: TypeAlias = Inline | Messages


@runtime_checkable
class Renderer(Protocol):
    """Messages <-> ids for one template family. Found under `agentrl.renderers`."""

    @property
    def name(self) -> str:
        """Registered name of the template family."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """What text is encoded with."""
        ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end an assistant's turn."""
        ...

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Int32Array:
        """The whole conversation so far, ending where the assistant's turn begins."""
        ...

    def demo(self, text: str, *, ended: bool = False) -> Int32Array:
        """Ids of `text` as the model itself would write it: tags are their single ids.

        With `ended` the end-of-turn id follows, as the model's own last id.
        """
        ...

    def write(self, message: Message) -> str:
        """How the model itself would write an assistant message: thinking, content, calls."""
        ...

    def delta(self, messages: Sequence[Message], *, ended: bool) -> tuple[Span, ...]:
        """What follows the model's own tokens when `messages` (not the assistant's) answer it.

        `ended` tells whether the model wrote its own end-of-turn id; if not, the closer is added.
        Closers and the next generation prompt are SCAFFOLD, the messages OBSERVATION.
        """
        ...

    def inline(self, block: Inline) -> tuple[Span, ...]:
        """A block placed inside the assistant's open turn (OBSERVATION)."""
        ...

    def closing(self, *, ended: bool) -> tuple[Span, ...]:
        """What closes the last turn of a finished row for a supervised target (SCAFFOLD)."""
        ...

    def is_prefix_stable(self, messages: Sequence[Message]) -> bool:
        """Whether growing a row turn by turn gives `prompt_ids(messages)`.

        False where the family's template rewrites history; False may also be cautious.
        """
        ...


@runtime_checkable
class ToolProtocol(Protocol):
    """How tools are described, called and answered in text. Found under `agentrl.protocols`."""

    @property
    def name(self) -> str:
        """Registered name of the format."""
        ...

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings that end a generation where a call is complete."""
        ...

    def tool_prompt(self, tools: Sequence[Tool]) -> str:
        """Instructions for the system message; empty when the renderer's template describes tools."""
        ...

    def parse(self, token_ids: Int32Array, text: str, *, turn: int) -> Action:
        """Read one generation; `text` is its decoded ids without the end-of-turn id.

        Never raises on what a model may write: see `Action.parse_error`. The calls' ids are
        `call_{turn}_{i}`.
        """
        ...

    def call_text(self, name: str, arguments: Mapping[str, JsonValue]) -> str:
        """How an expert writes a call; `parse(call_text(x)) == x`.

        Raises ValueError for what the format cannot say.
        """
        ...

    def present(
        self, observation: Sequence[Message], *, text: str = "", ended: bool = False
    ) -> Presented:
        """How the environment's answer is shown: tool messages inline, or as messages.

        `text` is what the model just wrote: of the block's opening, characters that it already
        sampled past its stop string are not shown twice. An `ended` turn takes messages only.
        """
        ...
