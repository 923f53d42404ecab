"""`agentrl data`: looking at tasks, and preparing what environments read."""

from __future__ import annotations

from collections.abc import Mapping

import click

from agentrl.cli.lazy import LazyGroup

SUBCOMMANDS: Mapping[str, str] = {
    "show": "Show tasks: question, answer, metadata, and the expert's turns.",
    "index": "Build a search index of a corpus.",
}
"""Command -> its summary, in the order shown."""


class _Subcommands(LazyGroup):
    commands_known = SUBCOMMANDS
    file_pattern = "agentrl.cli.data_{}"


@click.group("data", cls=_Subcommands)
def command() -> None:
    """Show tasks, build search indexes.

    \b
    agentrl data show env=search_qa
    agentrl data index corpus.jsonl
    """
