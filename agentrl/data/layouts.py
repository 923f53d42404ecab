"""Layouts: where the question and the gold answer stand in a row of a published data set.

A layout is declared by its name, what it needs and how a row is read. Detection looks at the first
row; `data.layout` overrides it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from agentrl.data.rows import Row
from agentrl.errors import UserError
from agentrl.suggest import did_you_mean
from agentrl.types import JsonValue
from agentrl.verify.extract import last_boxed, last_hashes


class Unanswered(UserError):
    """A row without a gold answer."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What a row says."""

    question: str
    answer: str
    metadata: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])


@dataclass(frozen=True, slots=True)
class Layout:
    """One way of writing problems down."""

    name: str
    needs: str
    """The columns, for messages."""
    fits: Callable[[Mapping[str, JsonValue]], bool]
    """Whether a first row looks like this layout."""
    read: Callable[[Row], Problem]
    """Raises UserError that names the row and what is missing."""


def detect(row: Row) -> Layout:
    """The first layout that fits a row. Raises UserError that lists the row's columns."""
    for layout in LAYOUTS.values():
        if layout.fits(row.values):
            return layout
    known = "; ".join(f"{layout.name} ({layout.needs})" for layout in LAYOUTS.values())
    columns = ", ".join(row.values) or "none"
    raise UserError(f"{row.where}: no layout fits the columns {columns}; known layouts: {known}")


def layout_named(name: str) -> Layout:
    """A layout by name. Raises UserError with the nearest one."""
    if name not in LAYOUTS:
        hint = did_you_mean(name, LAYOUTS)
        raise UserError(f"unknown data.layout {name!r}{hint}; known: {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def _text(row: Row, *columns: str) -> str:
    """The first of `columns` that holds text or a number, as text."""
    for column in columns:
        text = _as_text(row.values.get(column))
        if text is not None:
            return text
    there = any(column in row.values for column in columns)
    what = "is empty or not text" if there else "is missing"
    raise UserError(
        f"{row.where}: {' or '.join(columns)} {what} (columns: {', '.join(row.values) or 'none'}); "
        "fill it or drop the row"
    )


def _gold(row: Row, *columns: str) -> str:
    try:
        return _text(row, *columns)
    except UserError as error:
        raise Unanswered(str(error)) from None


def _gsm8k(row: Row) -> Problem:
    question, solution = _text(row, "question"), _gold(row, "answer")
    answer = last_hashes(solution)
    if answer is None:
        raise Unanswered(f"{row.where}: answer has no final line `#### x`; add it or drop the row")
    return Problem(question, answer.replace(",", ""), {"solution": solution})


_MATH_EXTRA = ("level", "subject", "type", "unique_id")


def _math(row: Row) -> Problem:
    question = _text(row, "problem", "question")
    extra = {name: row.values[name] for name in _MATH_EXTRA if _is_scalar(row.values.get(name))}
    given = row.values.get("answer")
    if given is not None and given != "":
        return Problem(question, _gold(row, "answer"), extra)
    solution = _gold(row, "solution", "answer")
    answer = last_boxed(solution)
    if not answer:
        raise Unanswered(f"{row.where}: solution has no \\boxed{{x}}; add one or an answer column")
    return Problem(question, answer, {**extra, "solution": solution})


def _aime(row: Row) -> Problem:
    return Problem(_text(row, "input"), _gold(row, "output"))


def _qa(row: Row) -> Problem:
    texts = [g.strip() for g in _list(row.values.get("answer")) if isinstance(g, str)]
    texts = [text for text in texts if text]
    if not texts:
        raise Unanswered(f"{row.where}: answer lists no text; fill it or drop the row")
    return Problem(_text(row, "question"), texts[0], {"answers": texts})


def _chat(row: Row) -> Problem:
    """Nested prompts: the user's messages are the question; system prompts belong to the env."""
    messages = [_record(message) for message in _list(row.values.get("prompt"))]
    asked = [str(m.get("content") or "").strip() for m in messages if m.get("role") == "user"]
    question = "\n\n".join(text for text in asked if text)
    if not question:
        raise UserError(f"{row.where}: prompt has no user message with text; add one")
    gold = _record(row.values.get("reward_model")).get("ground_truth")
    answer = _as_text(gold) or _as_text(row.values.get("answer"))
    if answer is None:
        raise Unanswered(
            f"{row.where}: neither reward_model.ground_truth nor answer holds text; "
            "fill one or drop the row"
        )
    named = {"domain": row.values.get("ability"), "source": row.values.get("data_source")}
    return Problem(question, answer, {k: v for k, v in named.items() if isinstance(v, str)})


def _code(row: Row) -> Problem:
    """HumanEval's columns, as `agentrl.verify.code` reads them; spaces at the ends of code count."""
    names = ("prompt", "entry_point", "test", "canonical_solution")
    given = {name: row.values.get(name) for name in names}
    for name, value in given.items():
        if not isinstance(value, str) or not value:
            raise UserError(f"{row.where}: {name} is missing or not text; fill it or drop the row")
    prompt, solution = str(given["prompt"]), str(given.pop("canonical_solution"))
    return Problem(prompt, solution, given)


def _as_text(value: JsonValue) -> str | None:
    """Text, stripped; a number written out; None for anything else and for nothing."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value.strip() or None if isinstance(value, str) else None


def _list(value: JsonValue) -> Sequence[JsonValue]:
    return cast(Sequence[JsonValue], value) if isinstance(value, list | tuple) else ()


def _record(value: JsonValue) -> Mapping[str, JsonValue]:
    return cast(Mapping[str, JsonValue], value) if isinstance(value, dict) else {}


def _is_scalar(value: JsonValue) -> bool:
    return isinstance(value, str | int | float)


def _has(values: Mapping[str, JsonValue], *columns: str) -> bool:
    return all(column in values for column in columns)


def _fits_gsm8k(values: Mapping[str, JsonValue]) -> bool:
    return _has(values, "question") and "####" in str(values.get("answer"))


def _fits_math(values: Mapping[str, JsonValue]) -> bool:
    asked = _has(values, "problem") or _has(values, "question")
    return asked and (_has(values, "answer") or _has(values, "solution"))


def _fits_qa(values: Mapping[str, JsonValue]) -> bool:
    return _has(values, "question") and bool(_list(values.get("answer")))


def _fits_chat(values: Mapping[str, JsonValue]) -> bool:
    return bool(_list(values.get("prompt")))


LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("chat", "prompt: messages, reward_model.ground_truth or answer", _fits_chat, _chat),
        Layout(
            "code",
            "prompt, entry_point, test, canonical_solution",
            lambda values: _has(values, "prompt", "entry_point", "test"),
            _code,
        ),
        Layout("gsm8k", "question, answer ending in #### x", _fits_gsm8k, _gsm8k),
        Layout("qa", "question, answer: list of texts", _fits_qa, _qa),
        Layout("math", "problem or question, answer or solution with \\boxed", _fits_math, _math),
        Layout("aime", "input, output", lambda values: _has(values, "input", "output"), _aime),
    )
}
"""Every layout by name, in the order of detection."""

__all__ = ["LAYOUTS", "Layout", "Problem", "Unanswered", "detect", "layout_named"]
