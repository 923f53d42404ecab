"""Tools of MCP servers (Model Context Protocol), over stdio and streamable HTTP."""

from __future__ import annotations

from agentrl_tools.mcp.connection import ServerLost
from agentrl_tools.mcp.toolset import McpServer, McpTool

__all__ = ["McpServer", "McpTool", "ServerLost"]
