"""A judge's grade of one aspect of a trajectory: its thinking, its search for answers, its answer.

Thinking is SophiaVL-R1's holistic quality (2505.17018), exploration RLSP's effort (2502.06773), answer
RLMT's response-only score (the thinking is stripped, a malformed one leaves nothing to grade).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from agentrl.errors import UserError, WorldFault
from agentrl.points import Need, Services
from agentrl.rewards.asking import ask, check_asking, read_score
from agentrl.rewards.texts import spoken, thinking
from agentrl.trajectory import Trajectory

Aspect = Literal["thinking", "exploration", "answer"]

_ASKS: Mapping[Aspect, str] = {
    "thinking": (
        "Grade the quality of the reasoning below, whatever its result: is every step sound, "
        "relevant, consistent with the ones before and free of empty repetition?"
    ),
    "exploration": (
        "Grade how much effort the reasoning below makes to find the answer, whatever its result: "
        "does it try alternatives, check itself, go back and correct what is wrong?"
    ),
    "answer": "Grade the answer below: is it right, complete and clear?",
}


@dataclass(frozen=True, slots=True)
class Judged:
    """Component `judge/<aspect>` in [0, 1], and `judge/<aspect>/failed` 1 or 0; measurements."""

    needs: ClassVar[frozenset[Need]] = frozenset({"judge"})

    aspect: Aspect = "thinking"
    ask: str | None = None
    """The instruction to the judge; null takes the aspect's own."""
    top: float = 10.0
    """Best grade of the judge's scale, which starts at 0; the component is grade / top."""
    scaled: bool = True
    """False keeps the judge's grade as it is (CoRT's and Med-R3's 0, 1, 2)."""
    reference: bool = False
    """Show the judge the hidden gold answer."""
    fallback: float | None = 0.5
    """Value when no grade can be had, counted in `failed`; null fails the trajectory instead."""
    tries: int = 2
    deadline_s: float = 120.0
    component: str | None = None
    """Name of the component; null is `judge/<aspect>`."""

    def __post_init__(self) -> None:
        check_asking("judge", self.tries, self.deadline_s)
        if self.top <= 0:
            raise UserError(f"judge.top is above 0, not {self.top}")

    async def __call__(self, trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        """Raises WorldFault when there is no grade and no fallback."""
        name = self.component or f"judge/{self.aspect}"
        failed = f"{name}/failed"
        text = spoken(trajectory) if self.aspect == "answer" else thinking(trajectory)
        if not text.strip():
            return {name: 0.0, failed: 0.0}
        prompt = self.prompt(trajectory, text)
        try:
            grade = await ask(
                services, prompt, self._read, tries=self.tries, deadline_s=self.deadline_s
            )
        except WorldFault:
            if self.fallback is None:
                raise
            return {name: self.fallback, failed: 1.0}
        return {name: grade / self.top if self.scaled else grade, failed: 0.0}

    def prompt(self, trajectory: Trajectory, text: str) -> str:
        """What the judge reads."""
        parts = [
            self.ask or _ASKS[self.aspect],
            f"Reply with one number from 0 to {self.top:g} as <score>number</score>.",
            f"Question:\n{trajectory.task.question}",
        ]
        if self.reference:
            parts.append(f"Reference answer:\n{trajectory.task.answer}")
        return "\n\n".join([*parts, f"Text:\n{text}"])

    def _read(self, reply: str) -> float | None:
        grade = read_score(reply)
        return grade if grade is not None and 0 <= grade <= self.top else None


__all__ = ["Aspect", "Judged"]
