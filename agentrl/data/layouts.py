"""Layouts: where the question and the gold answer stand in a row of a published data set.

A layout is declared by its name, what it needs and how a row is read. Detection looks at the first
row; `data.layout` overrides it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from agentrl.data.livecode import NEEDED, tests_in
from agentrl.data.rows import Row
from agentrl.data.tabular import QUERIES, database_in, table_in
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


def _hotpotqa(row: Row) -> Problem:
    """HotpotQA and 2WikiMultihopQA: `context` holds (title, sentences) pairs, or two columns.

    Either may be written as a JSON string.
    """
    context = _unquoted(row.values.get("context"))
    columns = _record(context)
    pairs: list[tuple[JsonValue, JsonValue]]
    if columns:
        titles, told = _list(columns.get("title")), columns.get("sentences", columns.get("content"))
        pairs = list(zip(titles, _list(told), strict=False))
    else:
        pairs = [(pair[0], pair[1]) for pair in map(_list, _list(context)) if len(pair) == 2]
    passages = [
        _passage(title, " ".join(str(text).strip() for text in _list(texts)))
        for title, texts in pairs
    ]
    facts = _unquoted(row.values.get("supporting_facts"))
    support = [[title] for title in _list(_record(facts).get("title"))] or _list(facts)
    return _asked(row, passages, support)


def _musique(row: Row) -> Problem:
    """MuSiQue: `paragraphs` of {title, paragraph_text, is_supporting}."""
    paragraphs = [_record(entry) for entry in _list(row.values.get("paragraphs"))]
    passages = [_passage(p.get("title"), p.get("paragraph_text")) for p in paragraphs]
    return _asked(row, passages, [[p.get("title")] for p in paragraphs if p.get("is_supporting")])


def _unquoted(value: JsonValue) -> JsonValue:
    """A list or record that stands in a string as JSON; anything else as it is."""
    if not isinstance(value, str) or value[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _passage(title: JsonValue, text: JsonValue) -> Mapping[str, JsonValue]:
    return {"title": str(title or ""), "text": str(text or "").strip()}


def _asked(
    row: Row, passages: Sequence[Mapping[str, JsonValue]], support: Sequence[JsonValue]
) -> Problem:
    """A question with passages of its own, and the titles of those that answer it."""
    if not passages:
        raise UserError(f"{row.where}: no passage can be read; give title and text of each")
    aliases = [text for text in map(_as_text, _list(row.values.get("answer_aliases"))) if text]
    answer = _gold(row, "answer")
    titles = dict.fromkeys(str(fact[0]) for fact in map(_list, support) if fact)
    extra = {
        name: row.values[name] for name in ("type", "level") if _is_scalar(row.values.get(name))
    }
    told: Mapping[str, JsonValue] = {
        "answers": [answer, *aliases],
        "passages": list(passages),
        "support": list(titles),
    }
    return Problem(_text(row, "question"), answer, {**told, **extra})


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


def _livecode(row: Row) -> Problem:
    """LiveCodeBench's columns; it has no solutions, so the answer is empty."""
    question, starter = _text(row, "question_content"), row.values.get("starter_code")
    if isinstance(starter, str) and starter.strip():
        question += f"\n\nStart from this code:\n```python\n{starter.rstrip()}\n```"
    extra = {n: row.values[n] for n in ("difficulty", "platform") if _is_scalar(row.values.get(n))}
    return Problem(question, "", {**extra, **tests_in(row)})


def _table(row: Row) -> Problem:
    """A question over a table; of several answers the first."""
    listed = [_as_text(value) for value in _list(row.values.get("answers"))]
    answer = next((text for text in listed if text), None) or _gold(row, "answer")
    return Problem(_text(row, "question"), answer, table_in(row))


def _sql(row: Row) -> Problem:
    return Problem(_text(row, "question"), _gold(row, *QUERIES), database_in(row))


def _fits_sql(values: Mapping[str, JsonValue]) -> bool:
    asked = _has(values, "question") and any(name in values for name in QUERIES)
    return asked and (_has(values, "database") or _has(values, "database_path"))


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


def _fits_hotpotqa(values: Mapping[str, JsonValue]) -> bool:
    context = _unquoted(values.get("context"))
    return _has(values, "question", "answer") and bool(_list(context) or _record(context))


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
        Layout(
            "hotpotqa",
            "question, answer, context: (title, sentences) pairs; also 2WikiMultihopQA",
            _fits_hotpotqa,
            _hotpotqa,
        ),
        Layout(
            "musique",
            "question, answer, paragraphs",
            lambda values: _has(values, "question", "answer", "paragraphs"),
            _musique,
        ),
        Layout("livecodebench", ", ".join(NEEDED), lambda values: _has(values, *NEEDED), _livecode),
        Layout("sql", "question, query, database or database_path", _fits_sql, _sql),
        Layout(
            "table",
            "question, table, answer or answers",
            lambda values: _has(values, "question", "table"),
            _table,
        ),
        Layout("gsm8k", "question, answer ending in #### x", _fits_gsm8k, _gsm8k),
        Layout("qa", "question, answer: list of texts", _fits_qa, _qa),
        Layout("math", "problem or question, answer or solution with \\boxed", _fits_math, _math),
        Layout("aime", "input, output", lambda values: _has(values, "input", "output"), _aime),
    )
}
"""Every layout by name, in the order of detection."""

__all__ = ["LAYOUTS", "Layout", "Problem", "Unanswered", "detect", "layout_named"]
