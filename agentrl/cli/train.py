"""`agentrl train`: reinforcement learning of one environment."""

from __future__ import annotations

import shlex

import click

from agentrl.cli.progress import FolderWatch, console_sink
from agentrl.cli.words import json_option, refuse_windows, words_argument


@click.command("train")
@words_argument
@click.option(
    "--dry-run",
    is_flag=True,
    help="Resolve everything, play one episode, show its mask and the memory needed, and stop.",
)
@json_option
def command(words: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Train an agent.

    \b
    agentrl train env=retool_math                      the embedded model, two minutes, no GPU
    agentrl train env=retool_math model=Qwen/Qwen2.5-1.5B-Instruct engine=vllm
    agentrl train recipe=retool_qwen2.5_7b --dry-run   a published recipe, resolved only
    agentrl train resume=runs/NAME                     go on where a run stopped
    """
    refuse_windows()
    from agentrl.compose import compose

    config = compose(words)
    if dry_run:
        from agentrl.cli.dry import print_dry_run
        from agentrl.train.dry_run import dry_run as play_one

        print_dry_run(config, play_one(config), as_json=as_json)
        return
    from agentrl.train.run import train

    line, where = shlex.join(["agentrl", "train", *words]), FolderWatch()
    try:
        folder = train(config, sinks=[where, console_sink(as_json=as_json)], command=line)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(*filter(None, [where.resumable])) from stop
    if not as_json:
        click.echo(f"run folder: {folder}\nmeasure it: agentrl eval {_again(words, str(folder))}")


def _again(words: tuple[str, ...], folder: str) -> str:
    """The words that evaluate the trained model in the same environment."""
    kept = [word for word in words if word.startswith(("env=", "env.", "recipe=", "data.", "@"))]
    return shlex.join([*kept, f"model={folder}"])
