"""The tool server of `agentrl_sums`, which verifiers starts as a program."""

from __future__ import annotations

import verifiers.v1 as vf


class Sums(vf.Toolset[vf.ToolsetConfig]):
    TOOL_PREFIX = "calc"

    @vf.tool
    def add(self, a: int, b: int) -> str:
        """Adds two numbers."""
        return str(a + b)


if __name__ == "__main__":
    Sums.run()
