"""Group gates that take trajectories out of the gradient and leave them in the statistics.

A mask decision, never a reward trick: the rewards of masked trajectories still make up their
group's mean and standard deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Drop, Keep, Verdict
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.types import Message
from agentrl.verify.extract import AnswerMark, extract_answer

REASONS = {
    "overlong": frozenset({StopReason.MAX_TOKENS, StopReason.TURN_TOKENS, StopReason.CONTEXT}),
    "unfinished": frozenset({StopReason.MAX_TURNS, StopReason.MAX_CALLS, StopReason.DEADLINE}),
}
"""Reason -> endings it stands for."""


@dataclass(frozen=True, slots=True)
class VoidTurns:
    r"""Mask trajectories with a void turn (SimpleTIR, 2509.02479).

    A turn is void when it neither calls a tool nor answers. In the paper: no complete fenced Python
    block and no `\boxed{}`; here a call is whatever the run's protocol could read, so that the same
    rule serves every protocol. A group all of whose trajectories are void is dropped.
    """

    answers: tuple[AnswerMark, ...] = ("boxed", "answer")
    r"""Marks of an answer: `\boxed{x}`, `<answer>x</answer>`, `#### x`."""

    def __call__(self, group: Group, history: HistoryStore, ctx: Ctx) -> Verdict:
        """Keep with reason `void` per trajectory, or drop as `void`."""
        return masked(group, {t.uid: "void" for t in group.scored if self.has_void(t)}, "void")

    def has_void(self, trajectory: Trajectory) -> bool:
        """Whether one of its turns is void."""
        turns = [message for message in trajectory.messages if message.role == "assistant"]
        return any(is_void(turn, self.answers) for turn in turns)


def is_void(turn: Message, answers: Sequence[AnswerMark] = ("boxed", "answer")) -> bool:
    """Whether a turn neither calls a tool nor answers."""
    return not turn.tool_calls and extract_answer(turn.content, answers) is None


@dataclass(frozen=True, slots=True)
class MaskTruncated:
    """Mask trajectories that a limit ended (DAPO's overlong filtering, 2503.14476, section 3.4)."""

    reasons: tuple[Literal["overlong", "unfinished"], ...] = ("overlong",)
    """`overlong`: a limit of tokens; `unfinished`: of turns, calls or time."""

    def __post_init__(self) -> None:
        if not self.reasons:
            raise UserError("mask_truncated needs at least one of algo.gate.reasons")

    def __call__(self, group: Group, history: HistoryStore, ctx: Ctx) -> Verdict:
        """Keep with a reason per masked trajectory, or drop as `overlong`."""
        found = {
            t.uid: name for t in group.scored for name in self.reasons if t.stop in REASONS[name]
        }
        return masked(group, found, "overlong")


def masked(group: Group, excluded: dict[str, str], reason: str) -> Verdict:
    """Keep what is left; drop the group when nothing is."""
    trains = any(t.trainable and t.uid not in excluded for t in group.scored)
    return Keep(excluded=excluded) if trains or not excluded else Drop(reason)


__all__ = ["REASONS", "MaskTruncated", "VoidTurns", "is_void", "masked"]
