"""Arithmetic expressions that call for different blocks."""

from __future__ import annotations

from hashlib import blake2b
from random import Random

from agentrl.types import Task
from agentrl_envs.families.base import split_of
from agentrl_envs.rlot import solver

KINDS = ("sum", "mixed", "bracket", "carry", "all")
"""What an expression holds: only + and -; * among them; a bracket; a large product; all of these."""

LEVELS = (1, 2, 3)
"""Difficulties: how many signs, 2 more than the level at most."""


def drawn(rng: Random, kinds: tuple[str, ...], level: int, split: str) -> Task:
    """A task of the split. Its value is exact, and its id follows from the expression."""
    while True:
        kind = rng.choice(kinds)
        text = expression(rng, kind, level)
        if split_of(text) == split:
            break
    digest = blake2b(text.encode(), digest_size=6).hexdigest()
    return Task(
        id=f"rlot/{kind}/{level}/{digest}",
        question=f"{text}=?",
        answer=str(solver.expected(solver.begun(text))),
        metadata={"kind": kind, "level": level, "expression": text, "split": split},
    )


def expression(rng: Random, kind: str, level: int) -> str:
    """A random expression of a kind."""
    signs = rng.randint(level, level + 1)
    if kind == "sum":
        return _flat(rng, signs, "+-")
    if kind == "mixed":
        return f"{rng.randint(2, 9)}{rng.choice('+-')}{rng.randint(2, 3)}*{_flat(rng, signs - 1, '+-')}"
    if kind == "bracket":
        return f"{rng.randint(2, 3)}*({_flat(rng, signs, '+-')})"
    product = f"{rng.randint(4, 9)}*{rng.randint(11, 19)}"
    if kind == "carry":
        return product + "".join(f"{rng.choice('+-')}{rng.randint(2, 9)}" for _ in range(signs - 1))
    inner = _flat(rng, signs, "+-")
    return f"{rng.randint(2, 9)}{rng.choice('+-')}{product}{rng.choice('+-')}({inner})"


def _flat(rng: Random, signs: int, among: str) -> str:
    """Numbers from 2 to 9 with so many signs between them."""
    written = str(rng.randint(2, 9))
    for _ in range(signs):
        written += f"{rng.choice(among)}{rng.randint(2, 9)}"
    return written


__all__ = ["KINDS", "LEVELS", "drawn", "expression"]
