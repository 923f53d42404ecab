"""Several gates as one."""

from __future__ import annotations

from dataclasses import replace
from typing import final

from agentrl.config import Plugin
from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.plugins import build
from agentrl.points import Ctx, GroupGate, Keep, Need, Verdict, needs_of
from agentrl.trajectory import Group


@final
class Chain:
    """Gates in a row: the first that does not keep a group decides; else their wishes add up.

    Weights multiply, a trajectory is excluded for the first reason given, and a group is
    remembered when any gate wants it. Every gate sees the group as it came.
    """

    def __init__(self, *, gates: tuple[Plugin, ...]) -> None:
        """Make the gates. Raises UserError on an empty list, an unknown gate or a wrong option."""
        if not gates:
            raise UserError("chain needs algo.gate.gates=[{name: ...}, ...]")
        self._gates: tuple[GroupGate, ...] = tuple(build("gate", node) for node in gates)
        self.needs: frozenset[Need] = frozenset().union(*(needs_of(gate) for gate in self._gates))

    def __call__(self, group: Group, history: HistoryStore, ctx: Ctx) -> Verdict:
        """The joint verdict."""
        kept = Keep()
        for gate in self._gates:
            verdict = gate(group, history, ctx)
            if not isinstance(verdict, Keep):
                return verdict
            kept = replace(
                kept,
                weight=kept.weight * verdict.weight,
                remember=kept.remember or verdict.remember,
                excluded={**verdict.excluded, **kept.excluded},
            )
        return kept


__all__ = ["Chain"]
