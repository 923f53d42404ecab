"""What the sandbox commands share: the chosen pool, and how a result is shown."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TextIO

import click

from agentrl.cli.plain import plain
from agentrl.errors import SandboxError, SetupError

if TYPE_CHECKING:
    from agentrl.sandbox import ExecResult, SandboxPool


@asynccontextmanager
async def opened(words: Sequence[str]) -> AsyncGenerator[SandboxPool]:
    """The pool that the words choose, open.

    Raises SandboxUnavailable with the remedy, and SetupError when the box itself fails later.
    """
    from agentrl.compose import compose
    from agentrl.plugins import build

    pool = build("sandbox", compose(words).sandbox)
    try:
        await pool.open()
        yield pool
    except SandboxError as error:
        raise SetupError(f"the sandbox failed: {error}") from error
    finally:
        await pool.close()


def show(result: ExecResult) -> None:
    """Output, value, traceback and facts; facts and what went wrong go to standard error."""
    _write(sys.stdout, result.stdout)
    _write(sys.stderr, result.stderr)
    if result.stdout_dropped or result.stderr_dropped:
        dropped = result.stdout_dropped + result.stderr_dropped
        click.echo(click.style(f"[{dropped} bytes of output left out]", fg="yellow"), err=True)
    if result.value is not None:
        _write(sys.stdout, result.value + "\n")
    if result.error is not None and result.error not in result.stderr:
        _write(sys.stderr, result.error + "\n")
    sys.stdout.flush()
    click.echo(click.style(facts(result), dim=True), err=True)


def facts(result: ExecResult) -> str:
    """One line of what the trusted side knows of a run."""
    parts = [result.status]
    if result.signal is not None:
        parts.append(f"signal {result.signal}")
    if result.exit_code is not None:
        parts.append(f"exit code {result.exit_code}")
    parts += [f"{result.wall_s * 1000:.1f} ms", f"CPU {result.cpu_s * 1000:.1f} ms"]
    if result.peak_rss_mb:
        parts.append(f"{result.peak_rss_mb:.0f} MB")
    parts.append(f"isolation {result.isolation}")
    if result.state_lost:
        parts.append("state lost")
    return " · ".join(parts)


def _write(stream: TextIO, text: str) -> None:
    """What code printed; on a terminal without the control characters that would steer it."""
    if stream.isatty():
        text = plain(text)
    encoding = stream.encoding
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    if stream.isatty() and text and not text.endswith("\n"):
        stream.write("\n")
    stream.flush()
