"""`agentrl serve`: what agentrl offers to other programs over the network, on loopback unless told."""

from __future__ import annotations

from collections.abc import Mapping

import click

from agentrl.cli.lazy import LazyGroup

SUBCOMMANDS: Mapping[str, str] = {
    "gateway": "Serve an agent to OpenAI's clients, or record their conversations for training.",
    "mcp": "Serve tools as an MCP server.",
    "tools": "Serve tools to verl-tool's trainers.",
    "retriever": "Serve a search index as Search-R1's retrieval server does (POST /retrieve).",
}
"""Command -> its summary, in the order shown."""


class _Subcommands(LazyGroup):
    commands_known = SUBCOMMANDS
    file_pattern = "agentrl.cli.serve_{}"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Options without a command before them are the gateway's as well."""
        bare = bool(args) and args[0].startswith("-") and args[0] not in ("--help", "-h")
        return super().parse_args(ctx, ["gateway", *args] if bare else args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Words without a command before them are the gateway's."""
        bare = "=" in args[0] or args[0].startswith("@")
        return super().resolve_command(ctx, ["gateway", *args] if bare else args)


@click.group("serve", cls=_Subcommands)
def command() -> None:
    """Serve an agent, its tools or a search index.

    \b
    agentrl serve env=retool_math model=runs/mine
    agentrl serve retriever corpus.jsonl
    """
