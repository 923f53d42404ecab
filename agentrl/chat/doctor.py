"""Choosing a renderer for a tokenizer, and checking at start-up that the two fit.

A template that is unknown, or that differs from every renderer here, is refused: a policy trained
under the wrong format learns nothing and says nothing about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias, runtime_checkable
from typing import Protocol as TypingProtocol

import numpy as np

from agentrl.chat.base import Inline, Renderer, Tokenizer
from agentrl.chat.chatml import qwen3, qwen3_instruct, qwen3_no_thinking, qwen25
from agentrl.chat.llama3 import Llama3Renderer
from agentrl.chat.markup import TAGS
from agentrl.chat.nano import CONTROLS, NanoRenderer
from agentrl.errors import UserError
from agentrl.transcript import Int32Array
from agentrl.types import Message

MakeRenderer: TypeAlias = Callable[[Tokenizer], Renderer]

RENDERERS: Mapping[str, MakeRenderer] = {
    "nano": NanoRenderer,
    "qwen2.5": qwen25,
    "qwen3": qwen3,
    "qwen3-no-thinking": qwen3_no_thinking,
    "qwen3-instruct": qwen3_instruct,
    "llama-3": Llama3Renderer,
}
"""The renderers that ship with the package."""

_FAMILIES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("<|assistant|>", "<|end|>", "<interpreter>"), ("nano",)),
    (("<|start_header_id|>", "<|eot_id|>"), ("llama-3",)),
    (
        ("<|im_start|>", "<|im_end|>", "<tool_response>", "<think>"),
        ("qwen3", "qwen3-instruct", "qwen2.5"),
    ),
    (("<|im_start|>", "<|im_end|>", "<tool_call>"), ("qwen2.5", "qwen3-instruct")),
)
"""Tokens that mark a family, and the renderers that may fit it, likeliest first."""

CONTROL_STRINGS = (
    *CONTROLS,
    *TAGS,
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>", "<|end_of_text|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>"),
)
"""What hostile text tries to forge, over all families."""


@runtime_checkable
class Published(TypingProtocol):
    """A tokenizer that stores its model's published template."""

    def published_text(self, messages: Sequence[Message]) -> str | None:
        """The template's text of `messages`; None when none is stored."""
        ...


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's outcome."""

    check: Literal["end ids", "prefix", "neutralised", "readable", "published"]
    ok: bool
    detail: str
    """What was found, with the fix where it is not `ok`."""


CORPUS: tuple[tuple[Message, ...], ...] = (
    (Message("user", "What is 2 + 3?"),),
    (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello.")),
    (
        Message("system", "Be brief."),
        Message("user", "What is 2 + 3?"),
        Message("assistant", "It is 5."),
        Message("user", "And 12345 * 2?\n\n"),
        Message("assistant", "24690"),
        Message("user", "  Grüße, 你好 🙂 "),
    ),
    (
        Message("user", "Look it up."),
        Message("assistant", "One moment."),
        Message("tool", "found: 42"),
        Message("assistant", "42"),
        Message("user", "Thanks"),
    ),
)
"""The fixed conversations that every renderer is checked on."""


def renderer_for(
    tokenizer: Tokenizer,
    name: str | None = None,
    *,
    known: Mapping[str, MakeRenderer] | None = None,
) -> Renderer:
    """The renderer called `name`, or the one that fits the tokenizer's family and template.

    `known` adds renderers of plug-ins. Raises UserError when the name or the template is unknown,
    or when a check fails.
    """
    makers = {**RENDERERS, **(known or {})}
    if name is not None:
        if name not in makers:
            close = difflib.get_close_matches(name, makers, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise UserError(f"unknown renderer {name!r}; {hint}known are {', '.join(makers)}")
        return _checked(makers[name](tokenizer))
    for tokens, candidates in _FAMILIES:
        if all(tokenizer.special_id(token) is not None for token in tokens):
            return _fitting(tokenizer, [makers[candidate] for candidate in candidates], makers)
    raise UserError(
        "this tokenizer belongs to no known chat family; set model.renderer to one of "
        f"{', '.join(makers)}, or register your own under agentrl.renderers"
    )


def _fitting(
    tokenizer: Tokenizer, candidates: Sequence[MakeRenderer], makers: Mapping[str, MakeRenderer]
) -> Renderer:
    """The first candidate that agrees with the stored template; the first of all without one."""
    renderers = [make(tokenizer) for make in candidates]
    for renderer in renderers:
        finding = _check_published(renderer)
        if finding is None or finding.ok:
            return _checked(renderer)
    raise UserError(
        "the model's chat template differs from every renderer of its family; set model.renderer "
        f"to one of {', '.join(makers)} to train under that format, or register your own"
    )


def _checked(renderer: Renderer) -> Renderer:
    wrong = [f for f in check_template(renderer) if not f.ok and f.check != "published"]
    if wrong:
        raise UserError(
            f"renderer {renderer.name!r} does not fit this tokenizer ({wrong[0].detail}); "
            "choose another with model.renderer"
        )
    return renderer


def check_template(renderer: Renderer) -> list[Finding]:
    """All checks on the fixed corpus; `published` is left out where no template is stored."""
    findings = [
        _check_ends(renderer),
        _check_prefix(renderer),
        _check_neutralised(renderer),
        _check_readable(renderer),
    ]
    published = _check_published(renderer)
    return findings if published is None else [*findings, published]


def grow(renderer: Renderer, messages: Sequence[Message]) -> Int32Array:
    """Ids of a row that grew over `messages`, as the rollout loop grows it."""
    turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
    first = turns[0] if turns else len(messages)
    ids: list[Int32Array] = [renderer.prompt_ids(messages[:first])]
    for turn, following in pairwise([*turns, len(messages)]):
        ids.append(renderer.demo(renderer.write(messages[turn]), ended=True))
        answer = messages[turn + 1 : following]
        ids.extend(span.token_ids for span in renderer.delta(answer, ended=True))
    return np.concatenate(ids)


def _check_ends(renderer: Renderer) -> Finding:
    ids = renderer.stop_ids
    names = [renderer.tokenizer.decode([i]) for i in ids]
    single = all(
        renderer.tokenizer.special_id(name) == i for name, i in zip(names, ids, strict=True)
    )
    closer = [i for span in renderer.closing(ended=False) for i in span.token_ids.tolist()]
    ok = bool(ids) and single and closer[:1] == list(ids[:1])
    return Finding("end ids", ok, f"a turn ends with {', '.join(names) or 'nothing'}")


def _check_prefix(renderer: Renderer) -> Finding:
    for messages in CORPUS:
        if not renderer.is_prefix_stable(messages):
            continue
        whole, grown = renderer.prompt_ids(messages), grow(renderer, messages)
        if not np.array_equal(whole, grown):
            shown = renderer.tokenizer.decode(grown)
            return Finding("prefix", False, f"turn by turn it renders differently: {shown!r}")
    return Finding("prefix", True, "turn by turn equals the whole conversation")


def _check_neutralised(renderer: Renderer) -> Finding:
    """Hostile text must leave no more added tokens in the ids than harmless text does."""
    hostile = " ".join(CONTROL_STRINGS)
    forged = {renderer.tokenizer.special_id(token) for token in CONTROL_STRINGS} - {None}

    def count(text: str) -> int:
        messages = [Message("system", text), Message("user", text)]
        parts = [renderer.prompt_ids(messages)]
        parts += [s.token_ids for s in renderer.delta([Message("tool", text)], ended=True)]
        parts += [s.token_ids for s in renderer.inline(Inline("", text, ""))]
        return sum(i in forged for part in parts for i in part.tolist())

    excess = count(hostile) - count("harmless")
    detail = "control strings in text stay text"
    if excess:
        detail = f"control strings in text became {excess} control tokens"
    return Finding("neutralised", excess == 0, detail)


def _check_readable(renderer: Renderer) -> Finding:
    for messages in CORPUS:
        shown = renderer.tokenizer.decode(renderer.prompt_ids(messages))
        lost = [m.content for m in messages if m.content.strip() not in shown]
        if lost:
            return Finding("readable", False, f"the text {lost[0]!r} is lost in {shown!r}")
    return Finding("readable", True, "every message can be read back")


def _check_published(renderer: Renderer) -> Finding | None:
    tokenizer = renderer.tokenizer
    if not isinstance(tokenizer, Published):
        return None
    for messages in CORPUS:
        try:
            expected = tokenizer.published_text(messages)
        except UserError as error:
            return Finding("published", False, str(error))
        if expected is None:
            return None
        shown = tokenizer.decode(renderer.prompt_ids(messages))
        if shown != expected:
            detail = f"the model's own template writes {expected!r}, this renderer {shown!r}"
            return Finding("published", False, detail)
    return Finding("published", True, "equals the model's own template")


__all__ = [
    "CONTROL_STRINGS",
    "CORPUS",
    "RENDERERS",
    "Finding",
    "MakeRenderer",
    "Published",
    "check_template",
    "grow",
    "renderer_for",
]
