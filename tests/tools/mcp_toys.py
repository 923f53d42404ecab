"""A server written with the mcp package's own MCPServer. `python mcp_toys.py [PORT]`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import anyio
from mcp.server.mcpserver import Image, MCPServer
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

toys = MCPServer("toys")


class Point(BaseModel):
    x: int
    on: list[bool]


@toys.tool()
def add(a: Annotated[int, Field(description="the first")], b: int = 1) -> int:
    """Adds two numbers."""
    return a + b


@toys.tool(structured_output=True)
def point() -> Point:
    """Where it is."""
    return Point(x=3, on=[True, False])


@toys.tool()
def picture() -> list[str | Image]:
    """A picture and its title."""
    return ["Sunset", Image(data=b"1234567", format="png")]


@toys.tool()
def refuse() -> str:
    """Refuses."""
    from mcp.server.mcpserver.exceptions import ToolError

    raise ToolError("only on Mondays")


@toys.tool()
def die() -> str:
    """Dies."""
    print("out of memory", file=sys.stderr, flush=True)
    os._exit(3)


@toys.tool(annotations=ToolAnnotations(read_only_hint=True))
def die_once(mark: str) -> str:
    """Dies over the first call for a mark."""
    if Path(mark).exists():
        return f"alive, in {os.getpid()}"
    Path(mark).touch()
    os._exit(3)


@toys.tool()
def process() -> str:
    """The server's process."""
    return str(os.getpid())


@toys.tool()
async def sleep() -> str:
    """Sleeps for a minute."""
    await anyio.sleep(60)
    return "rested"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        toys.run("streamable-http", port=int(sys.argv[1]))
    else:
        toys.run()
