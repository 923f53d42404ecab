"""`agentrl sft`: supervised training on demonstrations."""

from __future__ import annotations

import shlex

import click

from agentrl.cli.progress import console_sink
from agentrl.cli.words import json_option, refuse_windows, words_argument


@click.command("sft")
@words_argument
@json_option
def command(words: tuple[str, ...], as_json: bool) -> None:
    """Train on demonstrations.

    \b
    agentrl sft env=retool_math                    the environment's own expert, tools really run
    agentrl sft sft.path=chats.jsonl model=FOLDER  a jsonl file of `messages`
    """
    refuse_windows()
    from agentrl.compose import compose

    config = compose(words)
    from agentrl.train.run import sft

    line = shlex.join(["agentrl", "sft", *words])
    folder = sft(config, sinks=[console_sink(as_json=as_json)], command=line)
    if not as_json:
        click.echo(f"run folder: {folder}")
