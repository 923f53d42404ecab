"""Generated problems as tasks: functions with cases, or programs with standard input and output."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Literal

from agentrl.types import JsonValue, Task
from agentrl_envs.code_tests.problems import Arguments, Parameters, Problem

Form = Literal["function", "program"]
PUBLIC = 2
"""Cases that the statement shows."""
_READER = (
    "import ast, sys\n{source}\nprint(solve(*map(ast.literal_eval, sys.stdin.read().splitlines())))"
)


def make_task(
    rng: Random, problem: Problem, parameters: Parameters, form: Form, hidden: int
) -> Task:
    """A task with `hidden` cases that the model never sees and two that it does."""
    cases = _cases(rng, problem, parameters, hidden + PUBLIC)
    shown, kept = cases[:PUBLIC], cases[PUBLIC:]
    source = problem.solution(parameters)
    metadata: dict[str, JsonValue] = {
        "cases": [_case(form, a, e) for a, e in kept],
        "public": [_case(form, a, e) for a, e in shown],
        "family": problem.name,
        "level": problem.level,
        "form": form,
    }
    if form == "function":
        metadata["entry_point"] = "solve"
        opening = f"Write a Python function solve({problem.signature}). "
        examples = [f"solve({', '.join(map(repr, a))}) == {e!r}" for a, e in shown]
        answer = source
    else:
        opening = (
            f"Write a Python program. It reads {problem.signature} from standard input, as a Python "
            "literal on one line, and prints the result. "
        )
        examples = [f"input {' '.join(map(repr, a))}: prints {e}" for a, e in shown]
        answer = _READER.format(source=source)
    stated = problem.text(parameters)
    if form == "program":
        stated = stated.replace("Return ", "Print ").replace("return ", "print ")
    numbers = "-".join(map(str, parameters))
    return Task(
        f"{problem.name}/{form}/{numbers}",
        "\n".join([opening + stated, "Examples:", *examples]),
        answer,
        metadata,
    )


def _cases(
    rng: Random, problem: Problem, parameters: Parameters, n: int
) -> list[tuple[Arguments, JsonValue]]:
    """Different arguments, each with its result; few enough that a family has that many."""
    found: dict[str, tuple[Arguments, JsonValue]] = {}
    while len(found) < n:
        arguments = problem.arguments(rng)
        found[repr(arguments)] = (arguments, problem.reference(parameters, arguments))
    return list(found.values())


def _case(form: Form, arguments: Sequence[JsonValue], expected: JsonValue) -> JsonValue:
    if form == "function":
        return {"args": list(arguments), "expected": expected}
    return {"stdin": "".join(f"{a!r}\n" for a in arguments), "stdout": f"{expected}\n"}
