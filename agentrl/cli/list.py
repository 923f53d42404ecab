"""`agentrl list`: every plug-in this installation can see."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from agentrl.cli.words import json_option
from agentrl.errors import UserError
from agentrl.registry import KINDS, Listed, listing
from agentrl.suggest import did_you_mean

if TYPE_CHECKING:
    from rich.table import Table


def _complete(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    return [CompletionItem(kind) for kind in _KINDS if kind.startswith(incomplete)]


RECIPE = "recipe"
_KINDS = (*KINDS, RECIPE)


@click.command("list")
@click.argument("kind", required=False, shell_complete=_complete)
@json_option
def command(kind: str | None, as_json: bool) -> None:
    """Show plug-ins by kind, broken ones with their error.

    KIND is env, tool, sandbox, engine, ...; without it everything is shown but recipes. `agentrl
    list recipes` shows the published methods and which of the nine extension points each uses.
    """
    singular = kind[:-1] if kind and kind not in _KINDS and kind[:-1] in _KINDS else kind
    if singular is not None and singular not in _KINDS:
        raise UserError(f"there is no kind {kind!r} of plug-in{did_you_mean(singular, _KINDS)}")
    if singular == RECIPE:
        _show_recipes(as_json)
        return
    chosen = tuple(KINDS) if singular is None else (singular,)
    rows = [(one, row) for one in chosen for row in listing(one)]
    if as_json:
        for one, row in rows:
            click.echo(json.dumps({"kind": one, **asdict(row)}))
    elif rows:
        _table(rows)
    else:
        click.echo(f"no {singular} is installed")


def _table(rows: list[tuple[str, Listed]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("kind", "name", "from"):
        table.add_column(title, no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for kind, row in rows:
        told = Text(f"BROKEN: {row.error}", "red") if row.error else Text(row.summary)
        table.add_row(kind, Text(row.name, "cyan"), row.distribution, told)
    _print(table)


def _show_recipes(as_json: bool) -> None:
    """Method x extension point."""
    from rich.table import Table
    from rich.text import Text

    from agentrl.cli.recipes import POINTS, recipes

    found = list(recipes())
    if as_json:
        for recipe in found:
            click.echo(json.dumps(asdict(recipe)))
        return
    used = [p for p in POINTS if any(p in recipe.points for recipe in found)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("recipe", *used, "besides", "what it is"):
        table.add_column(title, overflow="fold")
    for recipe in found:
        cells = [", ".join(recipe.points.get(point, ())) for point in used]
        told = Text(f"BROKEN: {recipe.error}", "red") if recipe.error else Text(recipe.title)
        table.add_row(Text(recipe.name, "cyan"), *cells, ", ".join(recipe.besides), told)
    _print(table)


def _print(table: Table) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = 1000  # a pipe has no width to fit: one line per plug-in
    console.print(table)
