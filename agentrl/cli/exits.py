"""From an exception to one line and an exit code, for every command.

UserError, click's usage errors    2      SetupError    3      RunFailed, a full disk    4
Ctrl-C                           130      a closed pipe 141    a bug                     1
"""

from __future__ import annotations

import errno
import shlex
import sys
import traceback
from types import TracebackType
from typing import cast

import click

from agentrl.errors import RunFailed, SetupError, UserError, WorldFault

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def exit_code_of(error: BaseException, *, debug: bool) -> int | None:
    """Print one line on standard error and return the exit code; None when it is a bug."""
    cause = sole_cause(error)
    if isinstance(cause, click.ClickException):
        click.echo(f"error: {_usage(cause)}", err=True)
        return cause.exit_code
    code = _code(cause)
    if code is None:
        return None
    if debug:
        traceback.print_exception(error)
    click.echo(f"error: {_line(cause)}", err=True)
    return code


def _usage(error: click.ClickException) -> str:
    """Click's message, with where to read on."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    where = f"; see `{context.command_path} --help`" if context is not None else ""
    return error.format_message().rstrip(".") + where


def _code(error: BaseException) -> int | None:
    if isinstance(error, UserError):
        return 2
    if isinstance(error, SetupError):
        return 3
    full = isinstance(error, OSError) and error.errno in FULL_DISK
    return 4 if full or isinstance(error, (RunFailed, WorldFault)) else None


def _line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        where = f" while writing {error.filename}" if error.filename else ""
        return (
            f"the disk is full{where}; free some space and go on with resume=<run folder>, "
            "or choose another disk with dir=<folder>"
        )
    return " ".join(str(error).split()) or type(error).__name__


def sole_cause(error: BaseException) -> BaseException:
    """The one error behind nested exception groups; of several, the gravest we can explain."""
    leaves = list(_leaves(error))
    explained = [leaf for leaf in leaves if _code(leaf) is not None]
    if len(explained) < len(leaves):
        return next(leaf for leaf in leaves if leaf not in explained)
    return max(explained, key=lambda leaf: _code(leaf) or 0)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return [leaf for inner in group.exceptions for leaf in _leaves(inner)]
    return [error]


def farewell(stop: BaseException) -> int:
    """Say goodbye after Ctrl-C; a run folder in `stop.args` gives the command that goes on."""
    if stop.args:
        folder = str(stop.args[0])
        again = shlex.join(["agentrl", "train", f"@{folder}/config.yaml", f"resume={folder}"])
        click.echo(f"stopped; a checkpoint is written. Go on with:\n  {again}", err=True)
    else:
        click.echo("stopped", err=True)
    return 130


def install_bug_hook(*, debug: bool) -> None:
    """Replace the interpreter's last words for what nothing else explained."""
    if debug:
        sys.excepthook = sys.__excepthook__
        return

    def last_words(
        kind: type[BaseException], error: BaseException, _: TracebackType | None
    ) -> None:
        cause = sole_cause(error)
        text = " ".join(str(cause).split())
        click.echo(
            f"error: {type(cause).__name__}: {text}\n"
            "This is a bug; run the command again with --debug and report what it prints.",
            err=True,
        )

    sys.excepthook = last_words
