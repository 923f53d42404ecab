"""For plug-in authors: fakes that execute nothing, and a conformance kit for every contract.

    from agentrl.testing import check_tool, failures
    assert not failures(await check_tool(my_tool))

Each kit returns named results, so that a report can show all of them at once;
`agentrl check tool NAME` runs the same kits.
"""

from __future__ import annotations

from agentrl.testing.engine_kit import check_engine
from agentrl.testing.env_kit import check_env
from agentrl.testing.fakes import FakePool, FakeSandbox
from agentrl.testing.plan_kit import check_plan
from agentrl.testing.result import CheckResult, failures
from agentrl.testing.retriever_kit import check_retriever
from agentrl.testing.sandbox_kit import check_sandbox
from agentrl.testing.tool_kit import check_tool

__all__ = [
    "CheckResult",
    "FakePool",
    "FakeSandbox",
    "check_engine",
    "check_env",
    "check_plan",
    "check_retriever",
    "check_sandbox",
    "check_tool",
    "failures",
]
