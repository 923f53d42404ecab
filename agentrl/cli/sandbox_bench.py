"""`agentrl sandbox bench`: the numbers, measured here."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentrl.cli.words import json_option, words_argument
from agentrl.errors import UserError

if TYPE_CHECKING:
    from agentrl.testing.sandbox_bench import Line, Soak

COLOURS = {"PASS": "green", "MISS": "red", "skipped": "cyan"}


@click.command("bench")
@click.option("--rounds", default=30, show_default=True, help="Of each side, in turns.")
@click.option("--only", multiple=True, help="Part of a comparison's name; may be repeated.")
@click.option("--image", default="agentrl-sandbox-python", show_default=True,
              help="Docker image with Python, numpy and sympy.")  # fmt: skip
@click.option(
    "--soak", "soak_runs", default=0, metavar="N", help="Instead: N runs, counting leaks."
)
@click.option("--out", type=click.Path(path_type=Path), help="Write the numbers to this file.")
@words_argument
@json_option
def command(
    rounds: int,
    only: tuple[str, ...],
    image: str,
    soak_runs: int,
    out: Path | None,
    words: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure the sandbox against its alternatives, both sides in turns.

    Words give options of the local sandbox. Peers that are missing are skipped and named. Exit code
    4 when a number misses its gate, or when the soak leaks.

    \b
    agentrl sandbox bench
    agentrl sandbox bench --only docker --image my/python sandbox.max_isolation=lite
    agentrl sandbox bench --soak 100000
    """
    from agentrl.compose import compose
    from agentrl.testing.sandbox_bench import Setting, chosen, measure, soak

    if rounds < 1 or soak_runs < 0:
        raise UserError("--rounds must be at least 1 and --soak not negative")
    node = compose(words).sandbox
    if node.name != "local":
        raise UserError("the bench measures sandbox=local; the docker back end has its own line")
    setting = Setting(options=node.given, image=image)
    if soak_runs:
        found = asyncio.run(soak(setting, soak_runs, lambda text: click.echo(text, err=True)))
        _finish(
            asdict(found), out, as_json, _soaked(found), failed=bool(found.grown or found.wrong)
        )
        return
    names = chosen(only)
    lines = asyncio.run(measure(setting, names, rounds, lambda line: _tell(line, as_json)))
    failed = any(line.verdict == "MISS" for line in lines)
    _finish({line.name: asdict(line) for line in lines}, out, False, "", failed=failed)


def _tell(line: Line, as_json: bool) -> None:
    click.echo(json.dumps(asdict(line)) if as_json else row(line))


def row(line: Line) -> str:
    """One comparison as people read it."""
    mark = click.style(f"{line.verdict:7}", fg=COLOURS[line.verdict])
    if line.ours is None or line.ratio is None:
        return f"{mark}  {line.name:40} {line.what}"
    ours, peer = line.ours, line.peer
    told = f"{mark}  {line.name:40} {line.ratio:7.2f}x (at least {line.least:g}x)"
    told += f"   ours {ours.least:.3g}, median {ours.median:.3g}"
    if peer is None:
        return f"{told}, p99 {ours.p99:.3g} {line.unit}"
    return f"{told}; peer {peer.least:.3g}, median {peer.median:.3g} {line.unit}"


def _soaked(found: Soak) -> str:
    per_s = found.runs / found.seconds
    told = f"{found.runs} runs in {found.seconds:.0f} s ({per_s:.0f}/s), {found.wrong} wrong; "
    return told + (f"grown: {'; '.join(found.grown)}" if found.grown else "nothing has grown")


def _finish(
    found: dict[str, object], out: Path | None, as_json: bool, text: str, *, failed: bool
) -> None:
    if out is not None:
        out.write_text(json.dumps(found, indent=1) + "\n")
    if as_json:
        click.echo(json.dumps(found))
    elif text:
        click.echo(text)
    if failed:
        raise click.exceptions.Exit(4)
