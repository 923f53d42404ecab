"""The sandbox measured against its alternatives; `agentrl sandbox bench` shows it."""

from __future__ import annotations

from agentrl.testing.sandbox_bench.gates import GATES, Setting
from agentrl.testing.sandbox_bench.report import Line, chosen, measure
from agentrl.testing.sandbox_bench.soak import Soak, soak

__all__ = ["GATES", "Line", "Setting", "Soak", "chosen", "measure", "soak"]
