"""Code that passes its task's tests, run where neither can reach the other.

How a task says its tests is in `agentrl.verify.code.forms`, how they are run in
`agentrl.verify.code.grading`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import ClassVar, Literal

from agentrl.errors import UserError
from agentrl.points import Need, Services
from agentrl.sandbox import SandboxPool
from agentrl.seeds import derive
from agentrl.trajectory import Trajectory
from agentrl.verify.code.extract import extract_code
from agentrl.verify.code.forms import ProgramCases, tests_of
from agentrl.verify.code.grading import Grade, GradeLimits, Grader

_log = logging.getLogger(__name__)


class CodeTests:
    """Scores a trajectory's last code by its task's tests.

    The code is the answer the environment read, or else the last assistant message: its last fenced
    Python block, or all of it. Code that fails, crashes, hangs or cheats scores 0; a lost
    sandbox raises WorldFault.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"sandbox"})

    def __init__(
        self,
        *,
        component: str = "code_tests",
        score: Literal["all", "fraction"] = "all",
        case_s: float = 5.0,
        total_s: float = 60.0,
        tolerance: float = 0.0,
        at_once: int = 8,
    ) -> None:
        """`score`: 1 only when all cases pass, or the passed share of them. `case_s`, `total_s`:
        seconds of one call and of the whole. `tolerance`: by how much numbers may differ from
        expected ones. `at_once`: gradings in flight; each holds one or two sessions.

        Raises UserError on a limit that is not positive.
        """
        if min(case_s, total_s, at_once) <= 0 or tolerance < 0:
            raise UserError("code_tests needs case_s, total_s and at_once > 0 and tolerance >= 0")
        self._component = component
        self._fraction = score == "fraction"
        self._limits = GradeLimits(case_s=case_s, total_s=total_s, tolerance=tolerance)
        self._at_once = at_once
        self._grader: tuple[SandboxPool, Grader] | None = None

    async def __call__(self, trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        """One component in [0, 1]. Raises UserError for a task without tests, or without a sandbox;
        WorldFault when the sandbox failed."""
        grade = await self.grade(trajectory, services)
        if grade.reason:
            _log.debug("%s failed its tests: %s", trajectory.uid, grade.reason)
        share = grade.passed / grade.cases if self._fraction else float(grade.correct)
        return {self._component: share}

    async def grade(self, trajectory: Trajectory, services: Services) -> Grade:
        """What the tests said, with the reason of the first failure."""
        if services.sandbox is None:
            raise UserError("the reward code_tests runs code; give the run a sandbox")
        tests = tests_of(trajectory.task)
        entry_point = None if isinstance(tests, ProgramCases) else tests.entry_point
        code = extract_code(_written(trajectory), entry_point)
        limits = GradeLimits(
            case_s=self._limits.case_s,
            total_s=self._limits.total_s,
            tolerance=self._limits.tolerance,
            # Siblings meet the same random tests, and so does a repetition of the run.
            seed=derive("code_tests", trajectory.task.seed, trajectory.task.id),
        )
        return await self._grader_of(services.sandbox).grade(tests, code, limits)

    def _grader_of(self, pool: SandboxPool) -> Grader:
        if self._grader is None or self._grader[0] is not pool:
            self._grader = (pool, Grader(pool, at_once=self._at_once))
        return self._grader[1]


def _written(trajectory: Trajectory) -> str:
    if trajectory.answer is not None:
        return trajectory.answer
    said = (m.content for m in reversed(trajectory.messages) if m.role == "assistant")
    return next(said, "")


__all__ = ["CodeTests"]
