"""A small deterministic solver whose success depends on the blocks that drive it.

It stands in for the frozen language model where there is none: in tests and for tiny navigators.
Nothing in it is random, and nothing is told to the navigator but its seven scores. It evaluates
arithmetic with three true weaknesses, one for each block that mends it:

- it drops brackets, unless it has decomposed the expression;
- it works from left to right whatever the signs, unless it has debated the order;
- it loses the carry of the units when it multiplies two numbers above 3, and finds that out only
  when it refines the step right after.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from agentrl_envs.rlot.blocks import Block, Scores

_TOKEN = re.compile(r"\d+|[-+*()]")


@dataclass(frozen=True, slots=True)
class Work:
    """The solver at one moment."""

    left: tuple[str, ...]
    """What is still to be evaluated: numbers (negative ones too), signs, brackets."""
    decomposed: bool = False
    debated: bool = False
    before: tuple[str, ...] | None = None
    """The expression before a last step that may have slipped; None when it is sure of it."""
    at: int = 0
    """Where in `before` that step's sign stands."""
    moved: bool = True
    """Whether the last block did anything."""
    answer: int | None = None
    """The answer, once it was stated."""

    @property
    def value(self) -> int | None:
        """The only number left, or None."""
        return int(self.left[0]) if len(self.left) == 1 else None


def begun(expression: str) -> Work:
    """The solver before its first block."""
    return Work(tuple(_TOKEN.findall(expression)))


def run(work: Work, block: Block) -> Work:
    """One block."""
    match block:
        case "reason":
            return _reasoned(work)
        case "decompose":
            return replace(work, decomposed=True, before=None, moved=_nested(work))
        case "debate":
            return replace(work, debated=True, before=None, moved=_mixed(work))
        case "refine":
            return _refined(work)
        case "terminate":
            while work.value is None:
                work = _reasoned(work)
            return replace(work, before=None, answer=work.value)


def scores(work: Work) -> Scores:
    """The solver's honest evaluation of itself, each from 1 to 3."""
    nested, mixed = _nested(work), _mixed(work)
    signs = sum(token in "+-*" for token in work.left)
    return (
        1 if nested else 2 if mixed else 3,
        1 if nested else 3,
        1 if work.before is not None else 3,
        3 if signs > 3 else 2 if signs > 1 else 1,
        3 if mixed else 1,
        3 if work.value is not None else 2 if signs == 1 else 1,
        3 if work.moved else 1,
    )


def expected(work: Work) -> int:
    """What the expression left is truly worth: where a faultless continuation would end."""
    if work.answer is not None:
        return work.answer
    tokens = list(work.left)
    while len(tokens) > 1:
        tokens = _stepped(tokens, _next(tokens, brackets=True, precedence=True), exact=True)
    return int(tokens[0])


def written(work: Work) -> str:
    """What the solver shows of its work."""
    if work.answer is not None:
        return f"The answer is {work.answer}."
    return "".join(work.left)


def advised(work: Work) -> Block:
    """The block that helps most, by the scores alone: the expert's rule."""
    modelling, _, calculation, _, alternatives, closeness, _ = scores(work)
    if calculation == 1:
        return "refine"
    if closeness == 3:
        return "terminate"
    if modelling == 1:
        return "decompose"
    return "debate" if alternatives == 3 else "reason"


def _nested(work: Work) -> bool:
    """Brackets that it would drop."""
    return not work.decomposed and "(" in work.left


def _mixed(work: Work) -> bool:
    """Signs whose order it has not settled."""
    return not work.debated and "*" in work.left and any(sign in work.left for sign in "+-")


def _reasoned(work: Work) -> Work:
    if work.value is not None:
        return replace(work, before=None, moved=False, answer=work.value)
    tokens = list(work.left)
    if not work.decomposed:
        tokens = [token for token in tokens if token not in "()"]
    at = _next(tokens, brackets=work.decomposed, precedence=work.debated)
    a, sign, b = int(tokens[at - 1]), tokens[at], int(tokens[at + 1])
    left = tuple(_stepped(tokens, at, exact=False))
    before = tuple(tokens) if _unsure(a, sign, b) else None
    return replace(work, left=left, before=before, at=at, moved=True)


def _refined(work: Work) -> Work:
    if work.before is None:
        return replace(work, moved=False)
    left = tuple(_stepped(list(work.before), work.at, exact=True))
    return replace(work, left=left, before=None, moved=True)


def _next(tokens: list[str], *, brackets: bool, precedence: bool) -> int:
    """Where the sign stands that is applied next."""
    start, end = 0, len(tokens)
    if brackets and ")" in tokens:
        end = tokens.index(")")
        start = max(i for i in range(end) if tokens[i] == "(") + 1
    signs = [i for i in range(start, end) if tokens[i] in ("+", "-", "*")]
    products = [i for i in signs if tokens[i] == "*"]
    return products[0] if precedence and products else signs[0]


def _unsure(a: int, sign: str, b: int) -> bool:
    """A product that it cannot do in its head."""
    return sign == "*" and min(abs(a), abs(b)) > 3


def _stepped(tokens: list[str], at: int, *, exact: bool) -> list[str]:
    """The tokens after applying the sign at `at`; a bracket around one number goes."""
    a, sign, b = int(tokens[at - 1]), tokens[at], int(tokens[at + 1])
    value = a + b if sign == "+" else a - b if sign == "-" else a * b
    if not exact and _unsure(a, sign, b):
        lost = 10 * (abs(a) % 10 * (abs(b) % 10) // 10)
        value -= lost if value > 0 else -lost
    left, right = at - 1, at + 2
    if left > 0 and right < len(tokens) and (tokens[left - 1], tokens[right]) == ("(", ")"):
        left, right = left - 1, right + 1
    return [*tokens[:left], str(value), *tokens[right:]]


__all__ = ["Work", "advised", "begun", "expected", "run", "scores", "written"]
