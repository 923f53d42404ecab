"""`agentrl eval`: how good a model is in an environment."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import click

from agentrl.cli.progress import FolderWatch, console_sink
from agentrl.cli.words import json_option, refuse_windows, words_argument

if TYPE_CHECKING:
    from agentrl.evaluate.report import EvalReport
    from agentrl.evaluate.statistics import Interval


@click.command("eval")
@words_argument
@json_option
def command(words: tuple[str, ...], as_json: bool) -> None:
    """Measure a model: accuracy with its interval, pass@k, tool use, truncations and errors.

    \b
    agentrl eval env=retool_math                        the embedded model, held-out tasks
    agentrl eval env=retool_math model=runs/NAME        a run's best checkpoint
    agentrl eval env=retool_math eval.samples=8         pass@k for k up to 8
    agentrl eval env=retool_math eval.path=problems.jsonl
    """
    refuse_windows()
    from agentrl.compose import compose

    config = compose(words)
    from agentrl.train.run import evaluate

    line, where = shlex.join(["agentrl", "eval", *words]), FolderWatch()
    view = console_sink(as_json=as_json, live=False)
    found = evaluate(config, sinks=[where, view], command=line)
    if as_json:
        click.echo(json.dumps({"event": "report", "folder": where.folder, **found.to_json()}))
        return
    for name, value in rows(found):
        click.echo(f"{name:>14}  {value}")
    if where.folder:
        click.echo(f"{'trajectories':>14}  {where.folder}/trajectories.jsonl")


def rows(found: EvalReport) -> list[tuple[str, str]]:
    """The report as lines for people."""
    productive = "-" if found.productivity is None else f"{found.productivity:.2f} correct per call"
    lines = [
        ("accuracy", interval(found.accuracy)),
        *((f"pass@{k}", f"{value:.3f}") for k, value in found.pass_at.items() if k > 1),
        ("calls", f"{found.calls:.2f} per episode"),
        ("productivity", productive),
        ("call errors", f"{found.call_errors:.1%} of calls"),
        ("length", f"{found.length:.0f} sampled tokens"),
        ("truncated", f"{found.truncated:.1%}"),
        ("unverified", f"{found.excluded:.1%} (counted as wrong)"),
        ("errors", f"{found.errors:.1%} of {found.trajectories} trajectories, {found.tasks} tasks"),
    ]
    return lines + [(name, interval(value)) for name, value in found.families.items()]


def interval(value: Interval) -> str:
    """`0.912 (0.884 to 0.934)`, a 95 % interval."""
    return f"{value.value:.3f}  (95 %: {value.low:.3f} to {value.high:.3f})"
