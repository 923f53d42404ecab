"""`agentrl config`: what some words resolve to."""

from __future__ import annotations

import json

import click

from agentrl.cli.words import json_option, words_argument


@click.command("config")
@words_argument
@json_option
def command(words: tuple[str, ...], as_json: bool) -> None:
    """Print the configuration that some words resolve to.

    The output can be read back: agentrl config env=retool_math > run.yaml; agentrl train @run.yaml
    """
    from agentrl.compose import compose, dump

    config = compose(words)
    text = json.dumps(config.model_dump(mode="json"), indent=2) if as_json else dump(config)
    click.echo(text.rstrip("\n"))
