"""`agentrl list`: every plug-in this installation can see."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from click.shell_completion import CompletionItem

from agentrl.cli.words import json_option
from agentrl.errors import UserError
from agentrl.registry import KINDS, Listed, listing
from agentrl.suggest import did_you_mean


def _complete(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    return [CompletionItem(kind) for kind in _KINDS if kind.startswith(incomplete)]


_KINDS = (*KINDS, "recipe")


@click.command("list")
@click.argument("kind", required=False, shell_complete=_complete)
@json_option
def command(kind: str | None, as_json: bool) -> None:
    """Show plug-ins by kind, broken ones with their error.

    KIND is env, tool, sandbox, engine, ..., or recipe; without it everything is shown.
    """
    singular = kind[:-1] if kind and kind not in _KINDS and kind[:-1] in _KINDS else kind
    if singular is not None and singular not in _KINDS:
        raise UserError(f"there is no kind {kind!r} of plug-in{did_you_mean(singular, _KINDS)}")
    chosen = _KINDS if singular is None else (singular,)
    rows = [(one, row) for one in chosen for row in _rows(one)]
    if as_json:
        for one, row in rows:
            click.echo(json.dumps({"kind": one, **asdict(row)}))
    elif rows:
        _table(rows)
    else:
        click.echo(f"no {singular} is installed")


def _rows(kind: str) -> tuple[Listed, ...]:
    if kind != "recipe":
        return listing(kind)
    from agentrl.compose import config_root, group_names

    folder = config_root() / "recipe"
    return tuple(
        Listed(
            name, f"recipe/{name}.yaml", "-", _headline((folder / f"{name}.yaml").read_text()), None
        )
        for name in group_names("recipe")
    )


def _headline(text: str) -> str:
    first = text.partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""


def _table(rows: list[tuple[str, Listed]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("kind", "name", "from"):
        table.add_column(title, no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for kind, row in rows:
        told = Text(f"BROKEN: {row.error}", "red") if row.error else Text(row.summary)
        table.add_row(kind, Text(row.name, "cyan"), row.distribution, told)
    console = Console()
    if not console.is_terminal:
        console.width = 1000  # a pipe has no width to fit: one line per plug-in
    console.print(table)
