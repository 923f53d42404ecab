"""The five logic blocks of RLoT (arXiv:2505.14140) and the seven scores that choose among them."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias, cast

Block = Literal["reason", "decompose", "debate", "refine", "terminate"]

BLOCKS: tuple[Block, ...] = ("reason", "decompose", "debate", "refine", "terminate")
"""In the order of the navigator's five outputs."""

INSTRUCTIONS: dict[Block, str] = {
    "reason": "Reason one step: take exactly one further step towards the solution.",
    "decompose": "Decompose: split what is left into smaller tasks and do the first of them.",
    "debate": "Debate: name several ways to go on, compare them, and take the best one.",
    "refine": "Refine: check the last step, and write it again if it is wrong or unclear.",
    "terminate": "Terminate: give the final answer inside \\boxed{}.",
}
"""What the solver is asked under each block."""

Scores: TypeAlias = "tuple[int, int, int, int, int, int, int]"
"""The state: self-evaluations from 1 to 3 in the order of `ASPECTS`."""

ASPECTS = (
    "correctness of modelling",
    "clarity for next steps",
    "correctness of calculation",
    "complexity of what is left",
    "existence of alternatives",
    "closeness to the solution",
    "completeness of this step",
)

UNTOUCHED: Scores = (1, 1, 1, 1, 1, 1, 1)
"""The state before a partner has written anything: nothing is there to be evaluated."""

_NAMED = re.compile(rf"\b({'|'.join(BLOCKS)})\b", re.IGNORECASE)


def chosen(text: str) -> Block | None:
    """The block that a turn names: the last one of its answer tag, or else of the whole text."""
    inside = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    named = _NAMED.findall(inside[-1] if inside else text)
    return cast(Block, named[-1].lower()) if named else None


def executed(choice: Block, *, n_blocks: int, answered: bool, most: int) -> Block:
    """What is run when `choice` was made after `n_blocks` blocks.

    An answer that is present leaves only terminate, and so does the cap of `most` blocks; refine as
    the first move is treated as reason.
    """
    if answered or n_blocks >= most - 1:
        return "terminate"
    if n_blocks == 0 and choice == "refine":
        return "reason"
    return choice


def read_scores(text: str) -> Scores | None:
    """The last seven numbers of a self-evaluation; None unless all are from 1 to 3."""
    found = [int(n) for n in re.findall(r"(?<![\w.])[0-9](?![\w.]*[0-9])", text)][-7:]
    if len(found) < 7 or not all(1 <= score <= 3 for score in found):
        return None
    return cast(Scores, tuple(found))


def shown(scores: Scores | None) -> str:
    """The state as the navigator reads it; `?` where it could not be evaluated."""
    return " ".join("?" * 7 if scores is None else map(str, scores))


__all__ = [
    "ASPECTS", "BLOCKS", "INSTRUCTIONS", "UNTOUCHED", "Block", "Scores", "chosen", "executed",
    "read_scores", "shown",
]  # fmt: skip
