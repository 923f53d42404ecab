"""Is code graded right? All of HumanEval: its own solutions, empty ones and mutants of them.

    python benchmarks/humaneval_grading.py [--data ../shared/data] [--mutants 6]

Every verdict is compared with that of the usual way, which runs prompt, solution and test in one
interpreter (`python -c` with a deadline, no fence): on honest code the two must agree, mutants that
the tests let live included. Writes benchmarks/results/humaneval_grading.json with the times of both.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from machine import about_this_machine

from agentrl.testing.mutants import mutants
from agentrl.types import JsonValue, Task
from agentrl.verify.code import GradeLimits, Grader, tests_of
from agentrl_sandbox.local import LocalPool

RESULTS = Path(__file__).parent / "results" / "humaneval_grading.json"
CASE_S = 3.0
AT_ONCE = 2
Row = dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One program for one task."""

    row: Row
    kind: str
    code: str

    @property
    def task_id(self) -> str:
        """HumanEval's."""
        return str(self.row["task_id"])


def candidates(row: Row, n_mutants: int) -> list[Candidate]:
    """The canonical solution, an empty one, and mutants."""
    whole = str(row["prompt"]) + str(row["canonical_solution"])
    found = islice(mutants(whole, str(row["entry_point"])), n_mutants)
    return [
        Candidate(row, "canonical", whole),
        Candidate(row, "empty", "    return None\n"),
        *(Candidate(row, "mutant", mutant) for mutant in found),
    ]


async def usual(candidate: Candidate) -> bool:
    """Whether one interpreter that runs solution and test together ends well."""
    row = candidate.row
    code = candidate.code if candidate.kind != "empty" else f"{row['prompt']}{candidate.code}"
    program = f"{row['prompt']}\n{code}\n{row['test']}\ncheck({row['entry_point']})\n"
    if candidate.kind == "empty":
        program = f"{code}\n{row['test']}\ncheck({row['entry_point']})\n"
    silent = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-c", f"import random; random.seed(0)\n{program}",
        stdin=silent, stdout=silent, stderr=silent,
    )  # fmt: skip
    try:
        async with asyncio.timeout(CASE_S):
            return await process.wait() == 0
    except TimeoutError:
        process.kill()
        await process.wait()
        return False


async def graded(grader: Grader, candidate: Candidate) -> bool:
    """Our verdict."""
    task = Task(candidate.task_id, str(candidate.row["prompt"]), metadata=candidate.row)
    limits = GradeLimits(case_s=CASE_S)
    return (await grader.grade(tests_of(task), candidate.code, limits)).correct


async def verdicts(
    what: Sequence[Candidate], judge: str, grader: Grader
) -> tuple[list[bool], float]:
    """Every verdict, and the seconds all took, `AT_ONCE` at a time."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(candidate: Candidate) -> bool:
        async with slots:
            return await (usual(candidate) if judge == "usual" else graded(grader, candidate))

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(candidate)) for candidate in what]
    return [task.result() for task in tasks], time.monotonic() - began


async def measured(rows: Sequence[Row], n_mutants: int) -> dict[str, object]:
    """All candidates under both judges."""
    pool = LocalPool()
    await pool.open()
    try:
        grader = Grader(pool, at_once=AT_ONCE)
        found: dict[str, object] = {"isolation": pool.isolation, "at_once": AT_ONCE}
        everything = [c for row in rows for c in candidates(row, n_mutants)]
        differing: list[str] = []
        for kind in ("canonical", "empty", "mutant"):
            what = [c for c in everything if c.kind == kind]
            ours, ours_s = await verdicts(what, "ours", grader)
            theirs, theirs_s = await verdicts(what, "usual", grader)
            differing += [
                f"{c.task_id} {kind}: {a} against {b}"
                for c, a, b in zip(what, ours, theirs, strict=True)
                if a is not b
            ]
            found[kind] = {
                "programs": len(what), "passing": sum(ours), "passing_the_usual_way": sum(theirs),
                "ours_s": round(ours_s, 2), "usual_s": round(theirs_s, 2),
            }  # fmt: skip
            if kind == "mutant":
                caught = {c.task_id for c, a in zip(what, ours, strict=True) if not a}
                found["tasks_with_a_caught_mutant"] = len(caught)
        found["verdicts_that_differ"] = differing
        return found
    finally:
        await pool.close()


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--mutants", type=int, default=6)
    arguments = parser.parse_args()
    with gzip.open(Path(arguments.data) / "humaneval.jsonl.gz", "rt") as file:
        rows: list[Row] = [json.loads(line) for line in file]
    found = {"machine": about_this_machine(), "tasks": len(rows)}
    found |= asyncio.run(measured(rows, arguments.mutants))
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
