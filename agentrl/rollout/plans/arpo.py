"""ARPO (2507.19849): branches where the model is unsure after a tool result, one budget per task.

N episodes start from the prompt. After each tool result of a path the rule of `branch_rules` decides
whether it branches into Z copies, until M - N places are used; what is left of them is sampled from
the prompt. Branches go on from copies of everything environment, tools and sandbox hold.

What the released code did and this does not: H_initial outlives nothing (there it stayed from the
first batch on); each path of a task may branch at every turn, and the budget is kept exactly (there
missing rows were filled up with duplicates, one root at a time); a limit ends an episode without a
token that nobody sampled; a failed member is played again; only its own task waits for a slow tool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from agentrl.chat.base import Renderer
from agentrl.errors import UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.plans.branch_rules import BranchRule, CodeRule, FixedRule, PaperRule
from agentrl.rollout.plans.branch_tree import Tree, TreeShape
from agentrl.trajectory import Group
from agentrl.types import Task

Form = Literal["paper", "code", "fixed"]
RULES: Mapping[Form, Callable[..., BranchRule]] = {
    "paper": PaperRule,
    "code": CodeRule,
    "fixed": FixedRule,
}
OPTIONS: Mapping[Form, frozenset[str]] = {
    "paper": frozenset({"alpha", "beta", "tau", "k"}),
    "code": frozenset({"weight", "probability", "k"}),
    "fixed": frozenset({"probability"}),
}
"""What each form reads; anything else would be set in vain and is refused."""


class Arpo:
    """N roots, branches by entropy, `group_size` trajectories in all."""

    def __init__(
        self,
        *,
        group_size: int = 16,
        initial: int | None = None,
        form: Form = "paper",
        copies: int = 1,
        alpha: float | None = None,
        beta: float | None = None,
        tau: float | None = None,
        first_tokens: int | None = None,
        weight: float | None = None,
        probability: float | None = None,
        renderer: Renderer | None = None,
    ) -> None:
        """
        initial: roots N; None takes half of the group. form: `paper` branches where
        alpha + beta dH > tau, `code` with probability `probability + weight dH` as released, `fixed`
        with `probability`. copies: branches made at once, the paper's Z, the code's beam size less
        one. alpha, beta, tau: 0.5, 0.2, 0.5 unless given. first_tokens: tokens k whose entropies
        are read, 20 unless given. weight: 0.2 unless given. probability: 0.5 unless given.
        """
        given = {
            "alpha": alpha,
            "beta": beta,
            "tau": tau,
            "k": first_tokens,
            "weight": weight,
            "probability": probability,
        }
        rule = RULES[form](**_read(form, given))
        self._initial = half(group_size) if initial is None else initial
        if not 1 <= self._initial <= group_size:
            raise UserError(
                f"rollout.plan.initial is 1 to rollout.group_size={group_size}, not {initial}"
            )
        self._shape = TreeShape(group_size, rule, copies, renderer)

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """`group_size` trajectories in sibling order: roots, branches, fresh ones."""
        roots = range(self._initial)
        return await Tree(self._shape, task, services, ctx, roots=roots).group()


def half(group_size: int) -> int:
    """The papers' share of roots in a group, rounded up."""
    return (group_size + 1) // 2


def _read(form: Form, given: Mapping[str, float | int | None]) -> dict[str, float | int]:
    """The options that were set. Raises UserError for one that the form does not read."""
    found = {name: value for name, value in given.items() if value is not None}
    idle = sorted(found.keys() - OPTIONS[form])
    if idle:
        told = "first_tokens" if idle[0] == "k" else idle[0]
        raise UserError(f"rollout.plan.{told} means nothing to form={form}: leave it out")
    return found


__all__ = ["OPTIONS", "RULES", "Arpo", "Form", "half"]
