"""Which role a step trains, and who writes for the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agentrl.errors import UserError
from agentrl.points import Services

ALTERNATE: Final = "alternate"
"""Roles take turns, one step each; only for roles that are all played by the policy."""
POLICY: Final = "self"
"""The policy as its own, untrained partner."""


def trained_role(trained: str, roles: Sequence[str], step: int) -> str:
    """The role that `step` trains."""
    return roles[step % len(roles)] if trained == ALTERNATE else trained


def refuse_partner(role: str, services: Services, trained: str) -> None:
    """Raise UserError when a partner is named for a role that the policy itself plays throughout."""
    if role in services.partners:
        raise UserError(
            f"rollout.partners.{role} would do nothing, as rollout.plan.trained={trained} has the "
            "policy play that role; leave it out, or train another one"
        )


def partner_of(role: str, services: Services, trained: str) -> str:
    """Who writes for an untrained role: the configured partner of its name, else the policy.

    Raises UserError when the roles take turns and a frozen model plays one: what its turn would
    teach it is kept nowhere.
    """
    found = services.partners.get(role)
    if found is None:
        return POLICY
    if trained == ALTERNATE and found is not services.partners.get(POLICY):
        raise UserError(
            f"rollout.plan.trained=alternate trains the role {role!r} too, whose weights are frozen; "
            f"set rollout.partners.{role}.name=self, or name the one role to train"
        )
    return role


__all__ = ["ALTERNATE", "POLICY", "partner_of", "refuse_partner", "trained_role"]
