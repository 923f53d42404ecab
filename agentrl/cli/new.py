"""`agentrl new`: a plug-in package that installs and passes its test as it is."""

from __future__ import annotations

import keyword
from pathlib import Path

import click

from agentrl.cli.scaffold import TEXTS, filled
from agentrl.errors import UserError

USES = {
    "tool": "agentrl check tool {name}",
    "env": "agentrl train env={name}",
    "plan": "agentrl train env=retool_math rollout.plan.name={name}",
    "reward": "agentrl train env=retool_math 'algo.rewards=[{{name: {name}}}]'",
}


@click.command("new")
@click.argument("kind", type=click.Choice(tuple(TEXTS)))
@click.argument("name")
def command(kind: str, name: str) -> None:
    """Scaffold a tool, an environment, a reward or a rollout plan, with a passing test.

    \b
    agentrl new tool word_count
    pip install -e word_count && pytest word_count
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise UserError(f"{name!r} must be a lower-case Python name, such as my_{kind}")
    folder = Path(name)
    if folder.exists():
        raise UserError(f"{folder} exists already; choose another name or remove it")
    for path, text in filled(kind, name).items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        click.echo(f"wrote {target}")
    click.echo(f"\npip install -e {name} && pytest {name}\n{USES[kind].format(name=name)}")
