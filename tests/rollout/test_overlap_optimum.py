"""The event simulation that the barrier is measured against, by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def barrier() -> ModuleType:
    if not (BENCHMARKS / "barrier.py").exists():
        pytest.skip("the benchmarks are not here")
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("barrier", BENCHMARKS / "barrier.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["barrier"] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_whoever_is_back_joins_at_the_next_step(barrier: ModuleType):
    """Steps of 1 s, tools of 0.5 s. First: 3 tokens, back at 3.5, joins at 4, 2 more: 6. Second: 5
    tokens, back at 5.5, joins at 6 (nothing else runs then), one more: 7."""
    times = barrier.StepTimes([1.0] * 7, [0.0] * 7, [0.0] * 7)
    assert barrier.optimum(times, [[3, 2], [5, 1]], 0.5) == 7.0


def test_an_idle_engine_waits_for_the_first_tool(barrier: ModuleType):
    """Two tokens, half a second of nothing, one token."""
    times = barrier.StepTimes([1.0] * 7, [0.0] * 7, [0.0] * 7)
    assert barrier.optimum(times, [[2, 1]], 0.5) == 3.5


def test_larger_batches_and_joining_rows_cost_what_was_measured(barrier: ModuleType):
    """One row takes 1 s a step, two take 1.5; joining costs 0.25 for one and 0.5 for two, coming
    back 0.125. Two rows of two tokens: 0.5 + 1.5 + 1.5 = 3.5; then one comes back at 4.5: 5.625."""
    times = barrier.StepTimes([1.0, 1.5, *[9.0] * 5], [0.25, 0.5, *[9.0] * 5], [0.125, *[9.0] * 6])
    assert barrier.optimum(times, [[2, 1], [2]], 1.0) == pytest.approx(5.625)
