"""The cases of the sandbox kit, by theme; `agentrl check sandbox NAME` and the tests run the same.

ends        never ends, ends early, ends the interpreter      text      printed, echoed, handed over
reading     sees what it must not                             writing   changes what it must not
reaching    reaches processes and machines                    starting  processes and threads
calls       system calls that open a way out                  filling   memory, disk, descriptors
forging     writes its own result                             lingering what the next session finds
working     ordinary work goes on
"""

from __future__ import annotations

from agentrl.testing.sandbox_cases.calls import CALLS
from agentrl.testing.sandbox_cases.case import Case, Cell, Leak, Seen, Step
from agentrl.testing.sandbox_cases.ends import ENDS
from agentrl.testing.sandbox_cases.filling import FILLING
from agentrl.testing.sandbox_cases.forging import FORGING
from agentrl.testing.sandbox_cases.lingering import LINGERING
from agentrl.testing.sandbox_cases.reaching import REACHING
from agentrl.testing.sandbox_cases.reading import READING
from agentrl.testing.sandbox_cases.runner import CaseResult, cell_of, run_case, run_cases
from agentrl.testing.sandbox_cases.stage import planted_secret
from agentrl.testing.sandbox_cases.starting import STARTING
from agentrl.testing.sandbox_cases.text import TEXT
from agentrl.testing.sandbox_cases.working import WORKING
from agentrl.testing.sandbox_cases.writing import WRITING

CASES: tuple[Case, ...] = (
    *WORKING, *TEXT, *ENDS, *LINGERING, *READING, *WRITING, *REACHING, *CALLS, *STARTING,
    *FORGING, *FILLING,
)  # fmt: skip
"""Every case; names are unique."""

__all__ = [
    "CASES",
    "Case",
    "CaseResult",
    "Cell",
    "Leak",
    "Seen",
    "Step",
    "cell_of",
    "planted_secret",
    "run_case",
    "run_cases",
]
