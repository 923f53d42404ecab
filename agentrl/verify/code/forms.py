"""The three forms in which tasks say how code is tested, read from `Task.metadata`.

    {"entry_point": "add", "cases": [{"args": [1, 2], "expected": 3}]}              function cases
    {"cases": [{"stdin": "1 2", "stdout": "3"}]}                                    program cases
    {"entry_point": "add", "prompt": "def add...", "test": "def check(candidate)"}  a test suite

Values are JSON, with the `$` tags of `literals` for what JSON cannot say. A suite is HumanEval's
form (2107.03374); MBPP's `test_list` of assert statements (2108.07732) is read as one too.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from agentrl.errors import UserError
from agentrl.types import JsonValue, Task
from agentrl.verify.code.literals import decode


@dataclass(frozen=True, slots=True)
class FunctionCase:
    """One call and what must come of it."""

    args: JsonValue
    """Encoded list of positional arguments."""
    kwargs: JsonValue
    """Encoded dict of named arguments."""
    expected: JsonValue = None
    """Encoded value that must be returned; never told to the solution's process."""
    raises: str | None = None
    """Built-in exception that must be raised instead."""


@dataclass(frozen=True, slots=True)
class FunctionCases:
    """A function and its cases."""

    entry_point: str
    cases: tuple[FunctionCase, ...]
    prompt: str = ""
    """Python that comes before the solution: imports, or the opening of the function."""


@dataclass(frozen=True, slots=True)
class ProgramCase:
    """What a program reads and what it must print."""

    stdin: str
    stdout: str


@dataclass(frozen=True, slots=True)
class ProgramCases:
    """A program and its cases; each is run in a fresh interpreter."""

    cases: tuple[ProgramCase, ...]


@dataclass(frozen=True, slots=True)
class Suite:
    """Test code that calls the solution and asserts."""

    entry_point: str
    test: str
    prompt: str = ""
    """Opening of the function, with the helpers that both sides may use."""
    by_reference: bool = False
    """Whether the test sees what the solution did to mutable arguments.

    Off, arguments are passed by value: a solution that empties its argument cannot change what a
    test compares with afterwards. Turn it on for functions that must work in place.
    """


Tests: TypeAlias = FunctionCases | ProgramCases | Suite


def tests_of(task: Task) -> Tests:
    """How a task's code is tested. Raises UserError that names the task and what is missing."""
    data = task.metadata
    entry_point = data.get("entry_point")
    cases = data.get("cases")
    if isinstance(cases, Sequence) and not isinstance(cases, str) and cases:
        found = [_mapping(case, task) for case in cast(Sequence[JsonValue], cases)]
        if entry_point is None:
            return ProgramCases(tuple(_program_case(case, task) for case in found))
        function = tuple(_function_case(case, task) for case in found)
        return FunctionCases(_text(data, "entry_point", task), function, _maybe(data, "prompt"))
    test = _test(data)
    if test and entry_point is not None:
        return Suite(
            entry_point=_text(data, "entry_point", task),
            test=test,
            prompt=_maybe(data, "prompt"),
            by_reference=data.get("by_reference") is True,
        )
    raise UserError(
        f"task {task.id} does not say how its code is tested; give metadata `cases` (with "
        "`entry_point` for a function), or `test` and `entry_point`"
    )


def sources_of(tests: FunctionCases | Suite, code: str) -> list[str]:
    """The pieces of source to run one after another in one module.

    Code that defines the entry point follows the prompt, whose imports and helpers it may use; other
    code continues the prompt, as base models do. The code is searched, not parsed: it is hostile.
    """
    if not tests.prompt:
        return [code]
    name = re.escape(tests.entry_point.partition(".")[0])
    if re.search(rf"^(?:(?:async\s+)?def|class)\s+{name}\b|^{name}\s*=", code, re.MULTILINE):
        return [tests.prompt, code]
    return [tests.prompt.rstrip("\n") + "\n" + code]


def built_in_error(name: str | None) -> type[Exception] | None:
    """The built-in exception of that name; None for another name and for what is no Exception."""
    found = getattr(builtins, name, None) if name else None
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _test(data: Mapping[str, JsonValue]) -> str:
    test = data.get("test")
    if isinstance(test, str):
        return test
    lines = data.get("test_list")
    if isinstance(lines, Sequence) and not isinstance(lines, str):
        setup = [_maybe(data, "test_setup_code")]
        return "\n".join([*setup, *(str(line) for line in cast(Sequence[JsonValue], lines))])
    return ""


def _function_case(case: Mapping[str, JsonValue], task: Task) -> FunctionCase:
    raises = case.get("raises")
    if raises is None and "expected" not in case:
        raise UserError(f"a case of task {task.id} has neither `expected` nor `raises`; add one")
    if raises is not None and not (isinstance(raises, str) and built_in_error(raises)):
        raise UserError(
            f"`raises` in a case of task {task.id} must name a built-in exception, not {raises!r}"
        )
    args, kwargs = case.get("args", []), case.get("kwargs", {})
    for encoded in (args, kwargs, case.get("expected")):
        try:
            decode(encoded)
        except ValueError as error:
            raise UserError(
                f"a case of task {task.id} holds what is no encoded value ({error}); mend it"
            ) from None
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise UserError(f"task {task.id}: `args` must be a list and `kwargs` an object")
    return FunctionCase(
        cast(JsonValue, args), cast(JsonValue, kwargs), case.get("expected"), raises
    )


def _program_case(case: Mapping[str, JsonValue], task: Task) -> ProgramCase:
    return ProgramCase(_text(case, "stdin", task, ""), _text(case, "stdout", task))


def _mapping(value: JsonValue, task: Task) -> Mapping[str, JsonValue]:
    if not isinstance(value, Mapping):
        raise UserError(f"every case of task {task.id} must be an object, not {value!r}")
    return cast(Mapping[str, JsonValue], value)


def _text(data: Mapping[str, JsonValue], name: str, task: Task, default: str | None = None) -> str:
    value = data.get(name, default)
    if not isinstance(value, str):
        raise UserError(f"task {task.id} needs the text `{name}` for testing code; add it")
    return value


def _maybe(data: Mapping[str, JsonValue], name: str) -> str:
    value = data.get(name)
    return value if isinstance(value, str) else ""


__all__ = [
    "FunctionCase", "FunctionCases", "ProgramCase", "ProgramCases", "Suite", "Tests",
    "built_in_error", "sources_of", "tests_of",
]  # fmt: skip
