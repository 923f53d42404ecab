"""Machines whose work is long and whose state is short: what a bounded context can carry.

A machine draws operations and applies them one after another; each result depends on the whole
past, but only through a state of a few characters. The final state is the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from string import ascii_letters, ascii_lowercase
from typing import Literal

from agentrl.errors import UserError

Style = Literal["plain", "terse"]

LABELS = ascii_letters
"""Names of the steps in the terse style; hence its longest computation."""

Operation = str
"""One step in the terse notation of its machine."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One kind of computation; every function is pure."""

    name: str
    state: Callable[[Random], str]
    """A state drawn at random."""
    draw: Callable[[Random], Operation]
    apply: Callable[[str, Operation], str]
    words: Callable[[Operation], str]
    """The operation in English."""
    rules: str
    """What a state is, in English."""

    def run(self, start: str, operations: Sequence[Operation]) -> list[str]:
        """The state after each operation."""
        states: list[str] = []
        for operation in operations:
            start = self.apply(start, operation)
            states.append(start)
        return states


def _add(state: str, operation: Operation) -> str:
    return str((int(state) + int(operation)) % 10)


SUMS = Machine(
    name="sums",
    state=lambda rng: str(rng.randrange(10)),
    draw=lambda rng: str(rng.randint(1, 3)),
    apply=_add,
    words=lambda operation: f"add {operation}",
    rules="The state is one digit; only the last digit of a sum is kept.",
)


def _register(state: str, operation: Operation) -> str:
    x, y = (int(part) for part in state.split(","))
    if operation == "s":
        x, y = y, x
    elif operation[0] == "x":
        x = (x + int(operation[1:])) % 100
    elif operation[0] == "y":
        y = (y * int(operation[1:])) % 100
    else:
        x = (x + y) % 100
    return f"{x},{y}"


def _register_words(operation: Operation) -> str:
    if operation == "s":
        return "swap x and y"
    if operation[0] == "x":
        return f"add {operation[1:]} to x"
    return f"multiply y by {operation[1:]}" if operation[0] == "y" else "add y to x"


def _register_operation(rng: Random) -> Operation:
    kind = rng.choice("xys+")
    return kind + (str(rng.randrange(2, 10)) if kind in "xy" else "")


REGISTERS = Machine(
    name="registers",
    state=lambda rng: f"{rng.randrange(100)},{rng.randrange(100)}",
    draw=_register_operation,
    apply=_register,
    words=_register_words,
    rules="The state is x,y; both are kept modulo 100.",
)


def _edit(state: str, operation: Operation) -> str:
    if operation == "r":
        return state[::-1]
    if operation == "<":
        return state[1:] + state[:1]
    if operation == "x":
        return state[-1] + state[1:-1] + state[0]
    return state[1:] + operation[1]


def _edit_words(operation: Operation) -> str:
    named: Mapping[str, str] = {
        "r": "reverse the string",
        "<": "move the first letter to the end",
        "x": "swap the first and the last letter",
    }
    return named.get(operation) or f"drop the first letter and append {operation[1]}"


def _edit_operation(rng: Random) -> Operation:
    kind = rng.choice("r<x+")
    return kind + (rng.choice(ascii_lowercase) if kind == "+" else "")


STRINGS = Machine(
    name="strings",
    state=lambda rng: "".join(rng.choices(ascii_lowercase, k=5)),
    draw=_edit_operation,
    apply=_edit,
    words=_edit_words,
    rules="The state is a string of five letters.",
)

MACHINES: Mapping[str, Machine] = {m.name: m for m in (SUMS, REGISTERS, STRINGS)}


def chosen(names: Sequence[str]) -> tuple[Machine, ...]:
    """The machines of those names. Raises UserError on an unknown one, or none at all."""
    for name in names:
        if name not in MACHINES:
            raise UserError(
                f"env.machines: {name!r} is not a machine; choose among {', '.join(MACHINES)}"
            )
    if not names:
        raise UserError("env.machines is empty; name at least one")
    return tuple(MACHINES[name] for name in names)


def question(machine: Machine, start: str, operations: Sequence[Operation], style: Style) -> str:
    """The task in words, or as `start`, then every step's label and operation."""
    if style == "terse":
        steps = zip(LABELS, operations, strict=False)
        return start + "".join(f"{label}{operation}" for label, operation in steps)
    listed = (f"{n}. {machine.words(operation)}" for n, operation in enumerate(operations, 1))
    return (
        f"Carry out {len(operations)} steps in order, starting from {start}. {machine.rules}\n"
        + "\n".join(listed)
        + "\nGive the last state in <answer></answer> tags."
    )


def line(number: int, operation: Operation, state: str, style: Style) -> str:
    """How step `number`, counted from 0, and the state after it are written down."""
    return f"{LABELS[number]}{operation}{state}" if style == "terse" else f"{number + 1}: {state}\n"


__all__ = ["LABELS", "MACHINES", "Machine", "Style", "chosen", "line", "question"]
