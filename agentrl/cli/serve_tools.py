"""`agentrl serve tools`: agentrl's tools for trainers that speak verl-tool's format."""

from __future__ import annotations

import click

from agentrl.cli.serve_mcp import TOKEN_ENV
from agentrl.cli.words import words_argument
from agentrl.errors import SetupError


@click.command("tools")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=5000, show_default=True, help="0 takes a free one.")
@click.option("--allow-no-token", is_flag=True, help="Listen beyond this machine without a token.")
@click.option(
    "--protocol",
    help="How calls stand in an action; `fenced` for python alone, else `hermes`.",
)
@click.option("--call-s", default=60.0, show_default=True, help="Seconds of one call.")
@click.option("--idle-s", default=1800.0, show_default=True, help="Unused trajectories end after.")
@click.option("--sessions", default=1024, show_default=True, help="Trajectories at once.")
@words_argument
def command(
    host: str,
    port: int,
    allow_no_token: bool,
    protocol: str | None,
    call_s: float,
    idle_s: float,
    sessions: int,
    words: tuple[str, ...],
) -> None:
    """Serve tools to verl-tool's trainers.

    verl-tool's `tool_server_url` is the printed address with /get_observation. Every trajectory
    has tools and a sandbox of its own. Clients must send the token in $AGENTRL_TOOLS_TOKEN, if it is
    set, as `Authorization: Bearer`; verl-tool's own client sends none.

    \b
    agentrl serve tools tools=python --port 5000
    agentrl serve tools tools=python,calculator --protocol hermes
    """
    try:
        from agentrl.serve.door import door
        from agentrl.serve.running import server_over
        from agentrl.serve.tool_server import Observer, tool_app
    except ImportError as error:
        raise SetupError(
            f"serving needs {error.name}: pip install 'agentrl-framework[serve]'"
        ) from error
    from agentrl.registry import resolve
    from agentrl.sandbox import SandboxPool
    from agentrl.serve.tool_command import Command, run_command
    from agentrl.serve.tool_sessions import ToolSessions

    found = Command.of(words)
    spoken = resolve("protocol", protocol or ("fenced" if found.only("python") else "hermes"))()
    guard = door(host, TOKEN_ENV, allow_no_token=allow_no_token)

    async def serve(pool: SandboxPool) -> None:
        held = ToolSessions(found.make, pool, idle_s=idle_s, most=sessions)
        app = tool_app(held, Observer(held, spoken, call_s), guard, pool)
        await server_over(app).serve(sockets=[listening])

    with found.listening(host, port) as listening:
        run_command(
            found, serve, announce=guard.lines("tool server", listening, "/get_observation")
        )
