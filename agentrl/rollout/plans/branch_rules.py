"""When a path branches: ARPO's entropy rise in the paper's and the code's form, AEPO's, and chance.

Entropies H are in nats, of the whole vocabulary V; a rule reads them divided by ln V, so that 1 is a
uniform distribution. dH is that of the present turn minus H_initial, in the same units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from agentrl.errors import UserError

Look = Literal["after", "before", "nowhere"]
"""Which turn's entropies a rule reads: the one that follows a tool result, the one that made the
call, or none."""


class BranchRule(Protocol):
    """Does a path branch after a tool result?"""

    @property
    def look(self) -> Look:
        """Whose entropies it reads."""
        ...

    def measure(self, entropies: Sequence[float], log_vocab: float) -> float:
        """A turn's entropy from those of its tokens [t] in nats."""
        ...

    def branches(self, rise: float, u: float, streak: int) -> bool:
        """rise: dH. u: a draw from U(0, 1) of this path and turn. streak: how many tool results in
        a row, up to the last, the path branched at."""
        ...


def mean_entropy(entropies: Sequence[float], k: int, log_vocab: float) -> float:
    """Mean over the first `k` tokens, divided by ln V: in [0, 1]; 0 of an empty turn."""
    first = entropies[:k]
    return math.fsum(first) / len(first) / log_vocab if len(first) else 0.0


@dataclass(frozen=True, slots=True)
class PaperRule:
    """ARPO (2507.19849, section 3.1): P = alpha + beta dH, branch iff P > tau.

    The paper leaves `Normalize` open: here H is the mean over the first k tokens after the result
    divided by ln V, so that dH is in [-1, 1]. alpha = tau branches where the entropy rose at all.
    """

    alpha: float = 0.5
    beta: float = 0.2
    tau: float = 0.5
    k: int = 20
    look: Look = "after"

    def __post_init__(self) -> None:
        check_tokens(self.k)

    def measure(self, entropies: Sequence[float], log_vocab: float) -> float:
        """Mean of the first k, over ln V."""
        return mean_entropy(entropies, self.k, log_vocab)

    def branches(self, rise: float, u: float, streak: int) -> bool:
        """A threshold: no chance in it."""
        return self.alpha + self.beta * rise > self.tau


@dataclass(frozen=True, slots=True)
class CodeRule:
    """ARPO as released: branch iff clip(u - weight dH, 0, 1) <= probability, u ~ U(0, 1).

    So with P(branch) = clip(probability + weight dH, 0, 1). H is the sum over the first k tokens of
    the turn that made the call, over ln V; a first call has dH = 0. The released code sums over the
    ten likeliest tokens of each position only, without renormalising: its H is at most this one.
    """

    weight: float = 0.2
    probability: float = 0.5
    k: int = 20
    look: Look = "before"

    def __post_init__(self) -> None:
        check_tokens(self.k)
        check_probability(self.probability)

    def measure(self, entropies: Sequence[float], log_vocab: float) -> float:
        """Sum of the first k, over ln V: may exceed 1."""
        return math.fsum(entropies[: self.k]) / log_vocab

    def branches(self, rise: float, u: float, streak: int) -> bool:
        """Likelier the more the entropy rose."""
        return min(max(u - self.weight * rise, 0.0), 1.0) <= self.probability


@dataclass(frozen=True, slots=True)
class FixedRule:
    """Branch with one probability, whatever the entropies: the control ARPO is measured against."""

    probability: float = 0.5
    look: Look = "nowhere"

    def __post_init__(self) -> None:
        check_probability(self.probability)

    def measure(self, entropies: Sequence[float], log_vocab: float) -> float:
        """Nothing is measured."""
        return 0.0

    def branches(self, rise: float, u: float, streak: int) -> bool:
        """A coin."""
        return u < self.probability


@dataclass(frozen=True, slots=True)
class BalancedRule:
    """AEPO (2510.14545, section 4.1): P = (base + beta dH) (1 - penalty streak), branch iff P > tau.

    base is `alpha`, or with `chance` the draw u of the released code, which makes it a probability.
    The factor is linear in the branchings in a row and at least 0: a path that keeps branching has
    to be ever more uncertain. The released code counts all branches of the task so far instead.
    """

    alpha: float = 0.5
    beta: float = 0.2
    tau: float = 0.5
    penalty: float = 0.05
    chance: bool = False
    k: int = 20
    look: Look = "after"

    def __post_init__(self) -> None:
        check_tokens(self.k)
        if self.penalty < 0:
            raise UserError(f"aepo.penalty is at least 0, not {self.penalty:g}; the code's is 0.05")

    def measure(self, entropies: Sequence[float], log_vocab: float) -> float:
        """Mean of the first k, over ln V."""
        return mean_entropy(entropies, self.k, log_vocab)

    def branches(self, rise: float, u: float, streak: int) -> bool:
        """See the class."""
        base = u if self.chance else self.alpha
        return (base + self.beta * rise) * max(0.0, 1.0 - self.penalty * streak) > self.tau


def check_tokens(k: int) -> None:
    """Raises UserError unless entropies of at least one token are read."""
    if k < 1:
        raise UserError(f"rollout.plan.first_tokens is at least 1, not {k}; the papers' is 20")


def check_probability(p: float) -> None:
    """Raises UserError for what is no probability."""
    if not 0 <= p <= 1:
        raise UserError(f"rollout.plan.probability lies in 0 to 1, not {p:g}")


__all__ = [
    "BalancedRule",
    "BranchRule",
    "CodeRule",
    "FixedRule",
    "Look",
    "PaperRule",
    "check_probability",
    "check_tokens",
    "mean_entropy",
]
