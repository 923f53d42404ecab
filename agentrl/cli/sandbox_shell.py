"""`agentrl sandbox shell`: be the model, in a live session.

The event loop runs in a thread of its own, so that this one can read lines and hear Ctrl-C.
"""

from __future__ import annotations

import importlib
import sys
from codeop import compile_command
from collections.abc import Sequence
from concurrent.futures import Future, TimeoutError
from contextlib import suppress
from typing import TYPE_CHECKING

import click
from anyio.from_thread import BlockingPortal, start_blocking_portal

from agentrl.cli.sandbox_pool import opened, show
from agentrl.cli.words import words_argument
from agentrl.env import Forkable
from agentrl.errors import SandboxError, UserError
from agentrl.sandbox import Interruptible

if TYPE_CHECKING:
    from agentrl.sandbox import ExecResult, Sandbox, SandboxPool

HELP = """\
:reset      forget everything
:fork       a copy of this session; go on in the copy
:use N      go on in session N
:info       sessions and counts
:quit       leave, as Ctrl-D does"""


@click.command("shell")
@click.option("-t", "--timeout", "timeout_s", default=60.0, show_default=True, metavar="SECONDS",
              help="Of one cell.")  # fmt: skip
@words_argument
def command(timeout_s: float, words: tuple[str, ...]) -> None:
    """An interactive session that keeps its state.

    An empty line ends a block. Ctrl-C interrupts the code that runs; :help lists the commands.

    \b
    agentrl sandbox shell
    agentrl sandbox shell sandbox=docker sandbox.limits.memory_mb=1024
    """
    if timeout_s <= 0:
        raise UserError(f"--timeout {timeout_s:g} must be positive")
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(opened(words)) as pool,
    ):
        Shell(portal, pool, timeout_s).talk()


class Shell:
    """Reads cells, runs them, shows what came of them."""

    def __init__(self, portal: BlockingPortal, pool: SandboxPool, timeout_s: float) -> None:
        self._portal = portal
        self._pool = pool
        self._timeout_s = timeout_s
        self._sessions: list[Sandbox] = [portal.call(pool.acquire)]
        self._at = 0
        self._person = sys.stdin.isatty()

    def talk(self) -> None:
        """Until :quit or the end of input."""
        if self._person:
            with suppress(ImportError):
                importlib.import_module("readline")  # history and editing for input()
            click.echo(f"isolation {self._pool.isolation}; :help, :quit", err=True)
        try:
            while (cell := self._read()) is not None:
                if cell.startswith(":"):
                    if not self._order(cell[1:].split()):
                        break
                elif cell.strip():
                    self._run(cell)
        finally:
            for session in self._sessions:
                self._portal.call(session.close)

    def _read(self) -> str | None:
        """The next cell or order; None at the end."""
        lines: list[str] = []
        while True:
            try:
                lines.append(input(self._prompt(bool(lines)) if self._person else ""))
            except EOFError:
                return "\n".join(lines) if lines else None
            except KeyboardInterrupt:
                lines.clear()
                click.echo()
                continue
            if lines[0].startswith(":") or is_whole("\n".join(lines)):
                return "\n".join(lines)

    def _prompt(self, going_on: bool) -> str:
        number = f"[{self._at + 1}]" if len(self._sessions) > 1 else ""
        return number + ("... " if going_on else ">>> ")

    def _run(self, code: str) -> None:
        session = self._sessions[self._at]

        async def run() -> ExecResult:
            return await session.run(code, timeout_s=self._timeout_s)

        running: Future[ExecResult] = self._portal.start_task_soon(run)
        asked = False
        while True:
            try:
                # In slices: a wait without end would not hear Ctrl-C everywhere.
                show(running.result(0.2))
                return
            except TimeoutError:
                if running.done():
                    raise
            except KeyboardInterrupt:
                self._interrupt(session, running, again=asked)
                asked = True
                if running.cancelled():
                    return
            except SandboxError as error:
                click.echo(click.style(f"the sandbox failed: {error}", fg="red"), err=True)
                return

    def _interrupt(self, session: Sandbox, running: Future[ExecResult], *, again: bool) -> None:
        """Gently where the back end can; the second time, and elsewhere, with the state."""
        if isinstance(session, Interruptible) and not again:
            self._portal.call(session.interrupt)
            return
        running.cancel()
        click.echo(click.style("interrupted; the state is lost", fg="yellow"), err=True)

    def _order(self, words: Sequence[str]) -> bool:
        """Carry out one `:` line; False ends the shell."""
        match list(words):
            case ["quit" | "q" | "exit"]:
                return False
            case ["reset"]:
                self._portal.call(self._sessions[self._at].reset)
            case ["fork"]:
                self._fork()
            case ["use", number] if number.isdigit() and 0 < int(number) <= len(self._sessions):
                self._at = int(number) - 1
            case ["info"]:
                self._info()
            case _:
                click.echo(HELP)
        return True

    def _fork(self) -> None:
        session = self._sessions[self._at]
        if not isinstance(session, Forkable):
            click.echo("this back end cannot copy a session", err=True)
            return
        try:
            self._sessions += self._portal.call(session.fork, 1)
        except SandboxError as error:
            click.echo(f"no copy was made: {error}", err=True)
            return
        self._at = len(self._sessions) - 1
        click.echo(f"now in session {self._at + 1}; :use 1 goes back", err=True)

    def _info(self) -> None:
        counts = self._pool.statistics()
        click.echo(
            f"session {self._at + 1} of {len(self._sessions)}, isolation {self._pool.isolation}, "
            f"{counts.runs} runs, {counts.restarts} restarts"
        )


def is_whole(text: str) -> bool:
    """Whether a person has finished typing a cell: an empty line ends a block."""
    try:
        return compile_command(text, symbol="single") is not None
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return True
