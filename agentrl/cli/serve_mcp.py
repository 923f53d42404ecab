"""`agentrl serve mcp`: agentrl's tools for any MCP client."""

from __future__ import annotations

import click

from agentrl.cli.words import words_argument
from agentrl.errors import SetupError

TOKEN_ENV = "AGENTRL_TOOLS_TOKEN"


@click.command("mcp")
@click.option("--http", is_flag=True, help="Streamable HTTP at /mcp instead of stdio.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8081, show_default=True, help="0 takes a free one.")
@click.option("--allow-no-token", is_flag=True, help="Listen beyond this machine without a token.")
@click.option("--call-s", default=60.0, show_default=True, help="Seconds of one call.")
@click.option("--idle-s", default=1800.0, show_default=True, help="Unused sessions close after.")
@click.option("--sessions", default=1024, show_default=True, help="Open at once.")
@words_argument
def command(
    http: bool,
    host: str,
    port: int,
    allow_no_token: bool,
    call_s: float,
    idle_s: float,
    sessions: int,
    words: tuple[str, ...],
) -> None:
    """Serve tools as an MCP server.

    Over stdio by default, for clients that start their servers. Every MCP session has tools and
    a sandbox of its own. With --http, clients must send the token in $AGENTRL_TOOLS_TOKEN, if it is
    set, as `Authorization: Bearer`.

    \b
    agentrl serve mcp tools=python
    agentrl serve mcp tools=python,calculator --http --port 8081
    """
    try:
        from agentrl.serve.mcp_server import PATH, ToolRules, serve_http, serve_stdio
    except ImportError as error:
        raise SetupError(
            f"serving MCP needs {error.name}: pip install 'agentrl-framework[mcp,serve]'"
        ) from error
    from agentrl.serve.door import door
    from agentrl.serve.tool_command import Command, run_command

    rules = ToolRules(call_s=call_s, idle_s=idle_s, sessions=sessions)
    found = Command.of(words)
    if not http:
        run_command(found, lambda pool: serve_stdio(found.make, pool, rules), announce=None)
        return
    guard = door(host, TOKEN_ENV, allow_no_token=allow_no_token)
    with found.listening(host, port) as listening:
        run_command(
            found,
            lambda pool: serve_http(found.make, pool, rules, guard, listening),
            announce=guard.lines("MCP server", listening, PATH),
        )
