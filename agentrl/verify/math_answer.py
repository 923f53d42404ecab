"""Is a mathematical answer right? The cheap ladder first, math-verify only when it cannot tell.

Used by environments and rewards: `await checker.check(gold, prediction)`. What could not be
decided is None with its reason and a counter, never a silent zero.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from agentrl.errors import UserError
from agentrl.verify.ladder import MAX_CHARS, ladder, latex
from agentrl.verify.worker import Outcome, SymbolicPool

How = Literal[
    "ladder", "symbolic", "missing", "oversize", "timeout", "crashed", "raised", "unreadable_gold"
]
"""What settled a check.

The first four decide (`missing`: no or an empty answer, `oversize`: longer than any answer; both
wrong); the others leave `correct` None: the symbolic check overran its deadline, lost its process,
raised, or could not read the gold answer.
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one check."""

    correct: bool | None
    """None when it could not be decided: not scored, which is not wrong."""
    how: How


@dataclass(frozen=True, slots=True)
class MathStatistics:
    """Counts since the checker was made; every check is counted once under its `how`."""

    checks: int
    ladder: int
    symbolic: int
    missing: int
    oversize: int
    timeouts: int
    crashed: int
    raised: int
    unreadable_gold: int
    cached: int
    """Checks, among those above, that a remembered verdict answered."""
    replaced_workers: int
    """Worker processes killed after an overrun, or found dead."""


class MathChecker:
    """Compares predicted answers with gold ones.

    Safe to use from several threads and tasks. Holds at most `workers` child processes, started at
    the first answer that needs one; `close()` ends them.
    """

    def __init__(
        self, *, deadline_s: float = 5.0, workers: int = 1, cache_size: int = 8192
    ) -> None:
        """`deadline_s`: CPU seconds of one symbolic comparison, four times that in real time.

        The cache is by (gold, prediction) and holds undecided verdicts too.
        """
        if deadline_s <= 0 or workers < 1:
            raise UserError("MathChecker needs deadline_s > 0 and workers >= 1.")
        self._pool = SymbolicPool(size=workers, deadline_s=deadline_s)
        self._cache: OrderedDict[tuple[str, str], Verdict] = OrderedDict()
        self._cache_size = cache_size
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    async def check(self, gold: str, prediction: str | None) -> Verdict:
        """Whether the extracted answer `prediction` equals `gold`.

        Raises:
            UserError: the gold is empty.
            SetupError: a symbolic check is needed and math-verify cannot be started.
        """
        verdict = self._cheap(gold, prediction)
        if verdict is None:
            assert prediction is not None
            outcome = await self._pool.compare(latex(gold), latex(prediction))
            verdict = self._settle(gold, prediction, _verdict(outcome))
        return verdict

    def check_now(self, gold: str, prediction: str | None) -> Verdict:
        """`check` for callers without an event loop; blocks for the symbolic comparison."""
        verdict = self._cheap(gold, prediction)
        if verdict is None:
            assert prediction is not None
            outcome = self._pool.compare_now(latex(gold), latex(prediction))
            verdict = self._settle(gold, prediction, _verdict(outcome))
        return verdict

    def statistics(self) -> MathStatistics:
        """A snapshot of the counters."""
        with self._lock:
            n = self._counts.copy()
        return MathStatistics(
            checks=n.total() - n["cached"],
            ladder=n["ladder"],
            symbolic=n["symbolic"],
            missing=n["missing"],
            oversize=n["oversize"],
            timeouts=n["timeout"],
            crashed=n["crashed"],
            raised=n["raised"],
            unreadable_gold=n["unreadable_gold"],
            cached=n["cached"],
            replaced_workers=self._pool.replaced,
        )

    def close(self) -> None:
        """End the worker processes; idempotent. Cheap checks still work afterwards."""
        self._pool.close()

    def __enter__(self) -> MathChecker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _cheap(self, gold: str, prediction: str | None) -> Verdict | None:
        """A verdict that needs no process, already counted; None when one is needed."""
        if not gold.strip():
            raise UserError("The gold answer is empty; give every task an answer or drop the row.")
        if prediction is None or not prediction.strip():
            return self._count(Verdict(False, "missing"))
        if len(prediction) > max(MAX_CHARS, 2 * len(gold)):
            return self._count(Verdict(False, "oversize"))
        with self._lock:
            remembered = self._cache.get((gold, prediction))
            if remembered is not None:
                self._cache.move_to_end((gold, prediction))
                self._counts["cached"] += 1
        if remembered is not None:
            return self._count(remembered)
        cheap = ladder(gold, prediction)
        if cheap is None:
            return None
        return self._settle(gold, prediction, Verdict(cheap, "ladder"))

    def _settle(self, gold: str, prediction: str, verdict: Verdict) -> Verdict:
        """Count and remember; a timeout too, so that siblings do not pay for it again."""
        with self._lock:
            self._cache[gold, prediction] = verdict
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        return self._count(verdict)

    def _count(self, verdict: Verdict) -> Verdict:
        with self._lock:
            self._counts[verdict.how] += 1
        return verdict


def _verdict(outcome: Outcome) -> Verdict:
    if outcome.how != "answered":
        return Verdict(None, outcome.how)
    if outcome.correct is None:
        return Verdict(None, "unreadable_gold")
    return Verdict(outcome.correct, "symbolic")
