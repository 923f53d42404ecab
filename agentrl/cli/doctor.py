"""`agentrl doctor`: what works on this machine, and how to mend what does not."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from agentrl.cli.words import json_option, words_argument

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command("doctor")
@words_argument
@json_option
def command(words: tuple[str, ...], as_json: bool) -> None:
    """Check this machine, line by line, with the fix. Exit code 3 when something fails.

    \b
    agentrl doctor
    agentrl doctor model=Qwen/Qwen2.5-1.5B-Instruct engine=vllm
    """
    from agentrl.compose import compose
    from agentrl.doctor import examine

    failed = False
    for finding in examine(compose(words)):
        failed |= finding.status == "fail"
        if as_json:
            click.echo(json.dumps(asdict(finding)))
            continue
        mark = click.style(f"{finding.status:4}", fg=COLOURS[finding.status])
        click.echo(f"{mark}  {finding.name}: {finding.detail}")
        if finding.fix:
            click.echo(f"      fix: {finding.fix}")
    if failed:
        raise click.exceptions.Exit(3)
