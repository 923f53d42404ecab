"""What `--dry-run` prints: the resolved tree, one episode with its mask, and the memory needed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Protocol

import click
from rich.console import Console
from rich.text import Text

from agentrl.config import RunConfig
from agentrl.transcript import Origin

STYLES: Mapping[Origin, str] = {
    Origin.PROMPT: "dim",
    Origin.MODEL: "black on green",
    Origin.FORCED: "black on cyan",
    Origin.OBSERVATION: "yellow",
    Origin.SCAFFOLD: "magenta",
    Origin.DEMO: "black on blue",
}
"""Trained tokens have a background; nothing else does."""

MARKS: Mapping[Origin, str] = {Origin.MODEL: "[[{}]]", Origin.FORCED: "[[{}]]"}
"""Where colours cannot be shown, what surrounds trained tokens."""


class Played(Protocol):
    """What a dry run found out."""

    @property
    def spans(self) -> Sequence[tuple[Origin, str]]:
        """One episode's tokens as text, run by run of equal origin; empty when none was played."""
        ...

    @property
    def memory_mb(self) -> Mapping[str, float]:
        """Estimated megabytes by what holds them."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Warnings: what could not be tried, and why."""
        ...


def print_dry_run(config: RunConfig, played: Played, *, as_json: bool) -> None:
    """Print everything a dry run resolved."""
    if as_json:
        spans = [[origin.name, text] for origin, text in played.spans]
        found = {
            "config": config.model_dump(mode="json"),
            "episode": spans,
            "memory_mb": dict(played.memory_mb),
            "notes": list(played.notes),
        }
        click.echo(json.dumps(found))
        return
    from agentrl.compose import dump

    click.echo(dump(config).rstrip("\n"))
    console = Console(highlight=False)
    if played.spans:
        console.rule("one episode; highlighted tokens are trained")
        text = episode(played.spans, colour=console.color_system is not None)
        console.print(text, soft_wrap=True)
    if played.memory_mb:
        console.rule("estimated memory")
        for name, megabytes in played.memory_mb.items():
            console.print(f"{size(megabytes):>10}  {name}")
        console.print(f"{size(sum(played.memory_mb.values())):>10}  in all")
    for note in played.notes:
        console.print(Text.assemble(("warning: ", "yellow"), note), soft_wrap=True)


def episode(spans: Sequence[tuple[Origin, str]], *, colour: bool) -> Text:
    """The tokens as text; every origin in its style, or trained ones in double brackets."""
    text = Text()
    for origin, words in spans:
        text.append(words if colour else MARKS.get(origin, "{}").format(words), STYLES[origin])
    return text


def size(megabytes: float) -> str:
    """Megabytes below a gigabyte, gigabytes above."""
    return f"{megabytes:.0f} MB" if megabytes < 1024 else f"{megabytes / 1024:.1f} GB"
