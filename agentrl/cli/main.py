"""The `agentrl` command: one lazy group, so that `--help` and completion import next to nothing.

A command lives in `agentrl/cli/<name>.py` as `command`; its summary stands here, and a test holds
the two together. `main` is the entry point and the only place that turns errors into exit codes.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence

import click

from agentrl import __version__
from agentrl.cli.exits import exit_code_of, farewell, install_bug_hook
from agentrl.errors import AgentRLError
from agentrl.suggest import did_you_mean

COMMANDS: Mapping[str, str] = {
    "train": "Train an agent: agentrl train env=retool_math",
    "sft": "Train on demonstrations of experts or of a file of messages",
    "eval": "Measure accuracy, pass@k, tool use and errors of a model",
    "list": "Show plug-ins by kind, broken ones with their error",
    "new": "Scaffold a tool, an environment or a reward with a passing test",
    "check": "Run the conformance kit on a tool, env, sandbox or engine",
    "config": "Print the configuration that some words resolve to",
    "doctor": "Check this machine, line by line, with the fix",
}
"""Command -> the line shown by `agentrl --help`, in the order shown."""


class LazyGroup(click.Group):
    """Imports a command's file when it is used, never before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order shown."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None when there is no such name."""
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(f"agentrl.cli.{cmd_name}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Click's, with the nearest match for an unknown name."""
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            raise click.UsageError(
                f"there is no command {args[0]!r}{did_you_mean(args[0], COMMANDS)}"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Words are key=value: env=retool_math chooses, env.max_turns=6 overrides, "
    "recipe=otc_grpo loads a method, @run.yaml a file. Exit codes: 2 usage, 3 environment, "
    "4 run failed.",
)
@click.version_option(__version__, prog_name="agentrl")
@click.option("--debug", is_flag=True, help="Show tracebacks; may stand anywhere.")
def cli(debug: bool) -> None:
    """Reinforcement learning of language-model agents that use tools."""


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    What is nobody's mistake but ours is left to `sys.excepthook`, which says so in one line.
    """
    debug = "--debug" in argv
    install_bug_hook(debug=debug)
    words = [word for word in argv if word != "--debug"]
    try:
        code = cli.main(args=words, prog_name="agentrl", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt) as stop:
        return farewell(stop.__cause__ or stop)  # click wraps Ctrl-C and ends its line
    except (AgentRLError, click.ClickException, OSError, ExceptionGroup) as error:
        code = exit_code_of(error, debug=debug)
        if code is None:
            raise
    return code if isinstance(code, int) else 0


def main() -> None:
    """Entry point of the `agentrl` command."""
    sys.exit(run(sys.argv[1:]))
