"""`agentrl sandbox doctor`: every back end, tried."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from agentrl.cli.words import json_option, words_argument
from agentrl.errors import AgentRLError, SetupError, UserError

if TYPE_CHECKING:
    from agentrl.config import Plugin

TRIAL_S = 60.0
COLOURS = {"ok": "green", "warn": "yellow", "no": "red"}


@dataclass(frozen=True, slots=True)
class Trial:
    """One back end, opened and used."""

    backend: str
    status: Literal["ok", "warn", "no"]
    """`warn`: it works without isolation, or was not asked for; `no`: it does not work here."""
    detail: str
    fix: str = ""
    lines: tuple[str, ...] = ()
    """What the back end says of this machine."""


@click.command("doctor")
@words_argument
@json_option
def command(words: tuple[str, ...], as_json: bool) -> None:
    """What each back end can do on this machine, with the fix.

    Every installed back end is opened and runs a line of code; words choose a single one. Exit
    code 3 when none of them isolates.

    \b
    agentrl sandbox doctor
    agentrl sandbox doctor sandbox=remote sandbox.url=http://10.0.0.5:8080
    """
    trials: list[Trial] = []
    with _warnings_held():
        for trial in _trials(words):
            trials.append(trial)
            click.echo(json.dumps(asdict(trial)) if as_json else _text(trial))
    if not any(trial.status == "ok" for trial in trials):
        raise click.exceptions.Exit(3)


@contextmanager
def _warnings_held() -> Generator[None]:
    """The report itself says what the back ends warn of."""
    logger = logging.getLogger("agentrl.sandbox")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _text(trial: Trial) -> str:
    mark = click.style(f"{trial.status:4}", fg=COLOURS[trial.status])
    lines = [f"{mark}  {trial.backend}: {trial.detail}"]
    lines += [f"        {line}" for line in trial.lines]
    if trial.fix:
        lines.append(f"      fix: {trial.fix}")
    return "\n".join(lines)


def _trials(words: Sequence[str]) -> Iterator[Trial]:
    from agentrl.compose import compose
    from agentrl.config import Plugin
    from agentrl.registry import listing

    if any(word.startswith("sandbox") for word in words):
        yield _tried(compose(words).sandbox)
        return
    for row in listing("sandbox"):
        if row.error is not None:
            fix = f"pip install --upgrade --force-reinstall {row.distribution}"
            yield Trial(row.name, "no", f"cannot be loaded: {row.error}", fix)
        elif row.name == "none":
            detail = "code runs without any isolation, as this user; not tried"
            yield Trial(row.name, "warn", detail)
        else:
            yield _tried(Plugin(name=row.name))


def _tried(node: Plugin) -> Trial:
    from agentrl.plugins import build

    try:
        pool = build("sandbox", node)
    except UserError as error:
        again = f"agentrl sandbox doctor sandbox={node.name} sandbox.<option>=..."
        return Trial(node.name, "warn", f"not tried: {error}", again)
    except SetupError as error:
        return _refused(node.name, error)
    try:
        return asyncio.run(_used(node.name, pool))
    except TimeoutError:
        return Trial(node.name, "no", f"no answer within {TRIAL_S:g} s", "try it again")
    except AgentRLError as error:
        return _refused(node.name, error)


def _refused(name: str, error: AgentRLError) -> Trial:
    """A remedy follows the reason after a colon or a semicolon."""
    text = " ".join(str(error).split())
    cut = max(text.find("; "), -1)
    if cut < 0:
        cut = text.rfind(": ")
    return Trial(name, "no", text[:cut], text[cut + 2 :]) if cut > 0 else Trial(name, "no", text)


async def _used(name: str, pool: Any) -> Trial:
    async with asyncio.timeout(TRIAL_S):
        try:
            await pool.open()
            session = await pool.acquire()
            await session.run("0", timeout_s=10)
            result = await session.run("6 * 7", timeout_s=10)
            await session.close()
            lines = cast("Callable[[], list[str]]", getattr(pool, "doctor_lines", list))()
        finally:
            await pool.close()
    if result.value != "42":
        return Trial(name, "no", f"6 * 7 gave {result.error or result.status}", "", tuple(lines))
    told = f"isolation {result.isolation}, a cell takes {result.wall_s * 1000:.1f} ms"
    if result.isolation == "none":
        fix = "use sandbox=local where it isolates"
        return Trial(name, "warn", told, fix, tuple(lines))
    return Trial(name, "ok", told, "", tuple(lines))
