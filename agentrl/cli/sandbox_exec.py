"""`agentrl sandbox exec`: one piece of code, one answer."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentrl.cli.sandbox_pool import opened, show
from agentrl.cli.words import json_option, words_argument
from agentrl.errors import UserError

if TYPE_CHECKING:
    from agentrl.sandbox import ExecResult


@click.command("exec")
@click.option("-c", "--code", help="The code itself.")
@click.option("-f", "--file", "path", type=click.Path(path_type=Path), help="A file; - is stdin.")
@click.option("-t", "--timeout", "timeout_s", default=10.0, show_default=True, metavar="SECONDS")
@words_argument
@json_option
def command(
    code: str | None, path: Path | None, timeout_s: float, words: tuple[str, ...], as_json: bool
) -> None:
    """Run a piece of code once: -c CODE, -f FILE, or standard input.

    Prints what the code printed, the value of its last expression and a line of facts. Exit code 4
    when the code failed, 3 when there is no sandbox.

    \b
    agentrl sandbox exec -c 'import sympy; sympy.factorint(2**64 + 1)'
    echo 'print(6 * 7)' | agentrl sandbox exec sandbox=docker
    agentrl sandbox exec -f solve.py sandbox.min_isolation=strong --json
    """
    if timeout_s <= 0:
        raise UserError(f"--timeout {timeout_s:g} must be positive")
    result = asyncio.run(_run(_code(code, path), timeout_s, words))
    if as_json:
        click.echo(json.dumps(asdict(result)))
    else:
        show(result)
    if result.status != "ok":
        raise click.exceptions.Exit(4)


def _code(code: str | None, path: Path | None) -> str:
    if code is not None and path is not None:
        raise UserError("give -c or -f, not both")
    if code is not None:
        return code
    if path is None or str(path) == "-":
        if path is None and sys.stdin.isatty():
            raise UserError("there is no code: give -c CODE, -f FILE, or pipe it in")
        return sys.stdin.read()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text: {error}") from error


async def _run(code: str, timeout_s: float, words: Sequence[str]) -> ExecResult:
    from agentrl.sandbox import OneShot

    async with opened(words) as pool:
        if isinstance(pool, OneShot):
            return await pool.run_once(code, timeout_s=timeout_s)
        session = await pool.acquire()
        try:
            return await session.run(code, timeout_s=timeout_s)
        finally:
            await session.close()
