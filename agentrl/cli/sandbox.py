"""`agentrl sandbox`: the sandbox by itself, without a run around it."""

from __future__ import annotations

from collections.abc import Mapping

import click

from agentrl.cli.lazy import LazyGroup

SUBCOMMANDS: Mapping[str, str] = {
    "doctor": "What each back end can do on this machine, with the fix",
    "exec": "Run a piece of code once",
    "shell": "An interactive session that keeps its state",
    "bench": "Measure the sandbox against its alternatives",
    "serve": "Serve the sandbox over HTTP, SandboxFusion's schema included",
}
"""Command -> its summary, in the order shown."""


class _Subcommands(LazyGroup):
    commands_known = SUBCOMMANDS
    file_pattern = "agentrl.cli.sandbox_{}"


@click.group("sandbox", cls=_Subcommands)
def command() -> None:
    """Run, try, measure and serve the sandbox.

    \b
    agentrl sandbox exec -c 'print(6 * 7)'
    agentrl sandbox shell sandbox=docker
    agentrl sandbox doctor
    """
