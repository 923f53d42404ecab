"""A transformers tokenizer behind the `Tokenizer` contract, with hostile text made harmless.

transformers' `split_special_tokens` covers only tokens flagged special; Qwen's `<tool_call>` and
`<think>` are not, so a tool's output could still forge them. Here a private copy of the backend
flags every added token and splits them all; tags are put back by hand in trusted text only.
transformers is imported on the first load.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from agentrl.chat.markup import assemble, trusted
from agentrl.errors import UserError
from agentrl.transcript import Int32Array
from agentrl.types import JsonValue, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class HFTokenizer:
    """Wraps a fast transformers tokenizer; the wrapped one is left untouched."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        from tokenizers import AddedToken

        added = tokenizer.get_added_vocab()
        backend = copy.deepcopy(tokenizer.backend_tokenizer)
        backend.no_padding()
        backend.no_truncation()
        as_special = [AddedToken(token, special=True, normalized=False) for token in added]
        backend.add_special_tokens(as_special)  # pyright: ignore[reportUnknownMemberType]
        backend.encode_special_tokens = True
        self._backend = backend
        self._added = added
        self._wrapped = tokenizer
        self.chat_template = _template_text(tokenizer)
        """The template stored with the tokenizer, to tell families apart; empty when none is."""

    @property
    def vocab_size(self) -> int:
        """Ids in use, added tokens included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Ids of untrusted text: every added token's name in it becomes ordinary characters.

        Lone surrogates, which UTF-8 cannot say, become U+FFFD.
        """
        return self._backend.encode(_encodable(text), add_special_tokens=False).ids

    def encode_markup(self, text: str) -> list[int]:
        """Ids of trusted text: tags become their single ids, control strings stay characters."""
        return assemble(self, [trusted(text)])

    def decode(self, token_ids: Sequence[int] | Int32Array) -> str:
        """Text of ids, control tokens included, nothing cleaned up; invalid bytes become U+FFFD.

        Ids beyond the vocabulary (padding rows of an embedding) decode to nothing.
        """
        return self._backend.decode([int(i) for i in token_ids], skip_special_tokens=False)

    def special_id(self, token: str) -> int | None:
        """Id of an added token; None when the vocabulary lacks it."""
        return self._added.get(token)

    def published_text(self, messages: Sequence[Message]) -> str | None:
        """What the stored chat template makes of `messages`, with its generation prompt.

        None when no template is stored. Raises UserError when the template refuses them.
        """
        from jinja2.exceptions import TemplateError

        if not self.chat_template:
            return None
        render = cast("Callable[..., str]", self._wrapped.apply_chat_template)
        conversation = [plain_message(message) for message in messages]
        try:
            return render(conversation, tokenize=False, add_generation_prompt=True)
        except (TemplateError, TypeError, ValueError) as error:
            raise UserError(f"the model's chat template cannot be rendered: {error}") from error


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def plain_message(message: Message) -> dict[str, JsonValue]:
    """A message in the form that chat templates read."""
    plain: dict[str, JsonValue] = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        plain["reasoning_content"] = message.reasoning
    if message.tool_calls:
        plain["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return plain


def _template_text(tokenizer: PreTrainedTokenizerFast) -> str:
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = "\n".join(str(text) for text in template.values())  # pyright: ignore
    return template if isinstance(template, str) else ""


def load_tokenizer(path: str | Path, *, needs: Sequence[str] = ()) -> HFTokenizer:
    """Load a folder's or hub model's tokenizer.

    Raises UserError when there is none, when it has no fast backend, or when one of the control
    tokens in `needs` is not in its vocabulary.
    """
    from transformers import AutoTokenizer

    try:
        load = cast("Callable[[str], PreTrainedTokenizerFast]", AutoTokenizer.from_pretrained)  # pyright: ignore[reportUnknownMemberType]
        tokenizer = load(str(path))
    except Exception as error:
        # the Rust backend raises bare Exception for a damaged tokenizer.json
        expected = isinstance(error, (OSError, ValueError, KeyError, ImportError))
        if not expected and type(error) is not Exception:
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"no tokenizer could be loaded from {str(path)!r} ({reason}); "
            "give a folder that holds tokenizer.json or a hub id such as Qwen/Qwen2.5-1.5B-Instruct"
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"the tokenizer of {str(path)!r} has no fast (tokenizer.json) form; convert it with "
            "`AutoTokenizer.from_pretrained(...).save_pretrained(folder)` and give that folder"
        )
    wrapped = HFTokenizer(tokenizer)
    if not wrapped.encode("a"):  # transformers makes an empty vocabulary where the file is missing
        raise UserError(
            f"the tokenizer of {str(path)!r} has no vocabulary; copy tokenizer.json and "
            "tokenizer_config.json of the model into that folder"
        )
    require_tokens(wrapped, needs, what=str(path))
    return wrapped


def require_tokens(tokenizer: HFTokenizer, needs: Sequence[str], *, what: str) -> None:
    """Raise UserError when a control token is missing from `tokenizer`."""
    missing = [token for token in needs if tokenizer.special_id(token) is None]
    if missing:
        raise UserError(
            f"the tokenizer of {what!r} has no token {', '.join(missing)}; "
            "choose another renderer (`agentrl list renderers`) or an instruction-tuned model"
        )


__all__ = ["HFTokenizer", "load_tokenizer", "plain_message", "require_tokens"]
