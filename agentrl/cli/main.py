"""The `agentrl` command: one lazy group, so that `--help` and completion import next to nothing.

A command lives in `agentrl/cli/<name>.py` as `command`; its summary stands here, and a test holds
the two together. `main` is the entry point and the only place that turns errors into exit codes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import click

from agentrl import __version__
from agentrl.cli.exits import exit_code_of, farewell, install_bug_hook
from agentrl.cli.lazy import LazyGroup
from agentrl.errors import AgentRLError

COMMANDS: Mapping[str, str] = {
    "train": "Train an agent: agentrl train env=retool_math",
    "sft": "Train on demonstrations of experts or of a file of messages",
    "eval": "Measure accuracy, pass@k, tool use and errors of a model",
    "export": "Write a run's checkpoint as a Hugging Face folder",
    "run": "Watch an agent, or be it, in a live sandbox",
    "list": "Show plug-ins by kind, broken ones with their error",
    "new": "Scaffold a tool, an environment, a reward or a rollout plan, with a passing test",
    "check": "Run the conformance kit on a tool, env, plan, retriever, sandbox or engine",
    "data": "Show tasks, build search indexes",
    "serve": "Serve an agent, its tools or a search index",
    "sandbox": "Run, try, measure and serve the sandbox",
    "bench": "Measure the rollout loop with simulated engines and tools",
    "estimate": "Predict memory and step time of a run",
    "config": "Print the configuration that some words resolve to",
    "doctor": "Check this machine, line by line, with the fix",
}
"""Command -> the line shown by `agentrl --help`, in the order shown."""


class _Commands(LazyGroup):
    commands_known = COMMANDS


@click.group(
    cls=_Commands,
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
