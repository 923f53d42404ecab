"""A command group that imports a command's file when it is used, never before."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click

from agentrl.suggest import did_you_mean


class LazyGroup(click.Group):
    """Shows a table of names and summaries; each command is `command` in a file of its own.

    A test holds the summaries and what the commands say of themselves together.
    """

    commands_known: Mapping[str, str] = {}
    """Command -> the line shown by `--help`, in the order shown."""
    file_pattern = "agentrl.cli.{}"
    """Where a command lives."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order shown."""
        return list(self.commands_known)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None when there is no such name."""
        if cmd_name not in self.commands_known:
            return None
        return importlib.import_module(self.file_pattern.format(cmd_name)).command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Click's, with the nearest match for an unknown name."""
        if args[0] not in self.commands_known and not ctx.resilient_parsing:
            raise click.UsageError(
                f"there is no command {args[0]!r}{did_you_mean(args[0], self.commands_known)}"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.commands_known.items()))
