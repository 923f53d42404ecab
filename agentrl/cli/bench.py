"""`agentrl bench`: measurements that need no model and no peer."""

from __future__ import annotations

from collections.abc import Mapping

import click

from agentrl.cli.lazy import LazyGroup

SUBCOMMANDS: Mapping[str, str] = {
    "rollout": "The rollout loop at 64 to 65,536 concurrent episodes, engine and tools simulated",
}
"""Command -> its summary, in the order shown."""


class _Subcommands(LazyGroup):
    commands_known = SUBCOMMANDS
    file_pattern = "agentrl.cli.bench_{}"


@click.group("bench", cls=_Subcommands)
def command() -> None:
    """Measure parts of agentrl on this machine.

    The programs in `benchmarks/` compare with other projects; `agentrl sandbox bench` measures the
    sandbox.

    \b
    agentrl bench rollout
    agentrl bench rollout --concurrent 65536 --kv-tokens 4000000
    """
