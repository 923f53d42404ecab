"""Tools that are known only once somebody has been asked for them, such as an MCP server's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from agentrl.context import Context
from agentrl.errors import UserError
from agentrl.tool import Tool


class RenamableTool(Tool, Protocol):
    """A tool whose name was given elsewhere and may be taken here."""

    def renamed(self, name: str) -> RenamableTool:
        """The same tool under another name."""
        ...


@runtime_checkable
class Toolset(Protocol):
    """Brings tools; registered as a tool is, connected by whoever opens tools that a config names."""

    @property
    def label(self) -> str:
        """Goes before the name of a tool when another has the same."""
        ...

    async def connect(self, ctx: Context) -> Sequence[RenamableTool]:
        """The tools of this episode. Called again after a fork. Raises WorldFault."""
        ...

    async def close(self) -> None:
        """Release what `connect` took for the episode. Idempotent."""
        ...


Named: TypeAlias = Tool | Toolset
"""What a config means by the name of a tool."""


async def connected(named: Sequence[Named], ctx: Context) -> tuple[Tool, ...]:
    """All tools, in order, none of them open yet.

    A toolset's tool whose name is taken goes by `label_name`. Raises UserError when that, or the
    name of a plain tool, is taken as well, and what `connect` raises.
    """
    found: list[Tool] = []
    for one in named:
        if isinstance(one, Toolset):
            for tool in await one.connect(ctx):
                taken = any(tool.name == other.name for other in found)
                found.append(tool.renamed(f"{one.label}_{tool.name}") if taken else tool)
        else:
            found.append(one)
    refuse_doubles(found)
    return tuple(found)


def refuse_doubles(tools: Sequence[Tool]) -> None:
    """Raises UserError when two tools have one name."""
    names = [tool.name for tool in tools]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise UserError(
            f"two tools are named {doubled[0]!r}; leave one out, or give its server a `label`"
        )


__all__ = ["Named", "RenamableTool", "Toolset", "connected", "refuse_doubles"]
