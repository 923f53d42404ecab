"""GSM8K's own calculator annotations as a policy: `<<48/2=24>>` becomes the code `48/2`.

It cannot reason, so what it gets right shows that the path (code, sandbox, answer, check) is right:
its answer is read from the last interpreter output alone. Which items it must get right is worked
out here without running anything, by a parser that knows numbers and + - * / // ( ).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from random import Random

from agentrl.chat.base import Tokenizer
from agentrl.engine.base import Sampling
from agentrl.seeds import derive
from agentrl.transcript import Int32Array
from agentrl.types import Task
from agentrl_envs.demonstrator import answer_turn, code_turn
from agentrl_envs.families.base import Style

_ANNOTATION = re.compile(r"<<([^<>=]+)=[^<>]*>>")
_OUTPUT = re.compile(r"<interpreter>\s*(.*?)\s*</interpreter>", re.DOTALL)
_OPERAND = re.compile(r"\d+(?:\.\d+)?|\.\d+")

KEY_CHARS = 24
"""Characters of a question that are looked up first."""

TOLERANCE = 1e-9
"""Relative difference up to which a float counts as the gold: 0.1*3 is not exactly 0.3."""


def expressions(task: Task) -> list[str]:
    """Left sides of the item's annotations, in order; empty without annotations."""
    return [found.strip() for found in _ANNOTATION.findall(str(task.metadata.get("solution", "")))]


def annotation_turns(task: Task, style: Style = "plain") -> list[str] | None:
    """One code turn per annotation; None when the item has none that can be read.

    The answering turn is not among them: `final_turn` makes it from what the interpreter returned.
    """
    cells = expressions(task)
    if not cells or any(evaluate(cell) is None for cell in cells):
        return None
    return [code_turn(cell, style) for cell in cells]


def final_turn(conversation: str, style: Style = "plain") -> str:
    """The turn that answers with the last `<interpreter>` output of the conversation's text."""
    outputs = _OUTPUT.findall(conversation)
    return answer_turn(outputs[-1] if outputs else "", style)


def own_annotations(tasks: Sequence[Task], tokenizer: Tokenizer) -> AnnotationScript:
    """`engine=scripted engine.script=gsm8k_annotations`."""
    return AnnotationScript(tasks, tokenizer, corrupt=False)


def corrupted_annotations(tasks: Sequence[Task], tokenizer: Tokenizer) -> AnnotationScript:
    """`engine.script=gsm8k_corrupted`: one wrong operand in each last annotation, as a control."""
    return AnnotationScript(tasks, tokenizer, corrupt=True)


class AnnotationScript:
    """A policy that plays the items' own annotations.

    It finds its task by the question in the row, writes one code turn per annotation and answers
    with the last interpreter output; an item without annotations is answered with nothing.
    """

    def __init__(self, tasks: Sequence[Task], tokenizer: Tokenizer, *, corrupt: bool) -> None:
        self._tokenizer = tokenizer
        self._corrupt = corrupt
        self._width = min([KEY_CHARS, *(len(task.question) for task in tasks)])
        self._tasks: dict[str, list[Task]] = {}
        for task in tasks:
            self._tasks.setdefault(task.question[: self._width], []).append(task)

    def __call__(self, token_ids: Int32Array, sampling: Sampling, request: int) -> str:
        """The next turn of the row. Raises ValueError on a row of no known task."""
        text = self._tokenizer.decode(token_ids)
        task, conversation = self._found(text)
        turns = annotation_turns(task) or []
        if self._corrupt and turns:
            turns = corrupt_operand(turns, derive(task.id))
        done = len(_OUTPUT.findall(conversation))
        return turns[done] if done < len(turns) else final_turn(conversation)

    def _found(self, text: str) -> tuple[Task, str]:
        """The task of a row and what follows its question."""
        for start in range(len(text)):
            for task in self._tasks.get(text[start : start + self._width], ()):
                if text.startswith(task.question, start):
                    return task, text[start + len(task.question) :]
        raise ValueError("the row holds none of the script's questions")


def reaches_gold(task: Task) -> bool:
    """Whether the last annotation evaluates to the item's gold answer."""
    cells = expressions(task)
    value = evaluate(cells[-1]) if cells else None
    gold = evaluate(task.answer or "")
    if value is None or gold is None:
        return False
    return abs(value - gold) <= TOLERANCE * max(1.0, abs(gold))


def corrupt_operand(turns: Sequence[str], seed: int) -> list[str]:
    """The turns with one operand of the last one changed so that its value changes.

    Earlier results are written into the annotations as numbers, so only the last turn decides. An
    operand that does not matter (the 5 of `5*0`) is passed over. Raises ValueError when none does.
    """
    last = turns[-1]
    rng = Random(derive("corrupt", seed, last))
    expression = _expression_in(last)
    spots = list(_OPERAND.finditer(expression))
    for spot in rng.sample(spots, len(spots)):
        operand = evaluate(spot.group()) or 0
        wrong = f"{operand + rng.randint(1, 9)}"
        changed = expression[: spot.start()] + wrong + expression[spot.end() :]
        if evaluate(changed) not in (None, evaluate(expression)):
            return [*turns[:-1], last.replace(expression, changed)]
    raise ValueError(f"no operand of {expression!r} changes its value")


def _expression_in(turn: str) -> str:
    """The one line of a code turn that can be evaluated."""
    body = turn.removeprefix("<code>").removesuffix("</code>")
    for line in body.splitlines():
        if evaluate(line) is not None:
            return line
    raise ValueError(f"no arithmetic in the turn {turn!r}")


def evaluate(expression: str) -> float | None:
    """The value of plain arithmetic as Python computes it; None for anything else.

    Nothing is executed: names, calls, powers and every other construct are refused.
    """
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.BinOp(left=left, op=op, right=right):
            return _applied(op, _value(left), _value(right))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case _:
            raise ValueError(f"not plain arithmetic: {ast.dump(node)[:80]}")


def _applied(op: ast.operator, left: float, right: float) -> float:
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.FloorDiv():
            return left // right
        case _:
            raise ValueError(f"not plain arithmetic: {type(op).__name__}")
