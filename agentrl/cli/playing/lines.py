"""What a person types, or a pipe holds: messages, turns of several lines, and commands."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import click

QUOTES = '"""'
"""Around text of several lines."""


class Quit(Exception):
    """The person leaves."""


Command = Callable[[str], None]
"""Carries out one `/name rest`; raises Quit to leave."""


@dataclass(slots=True)
class Lines:
    """Reads standard input: from a person with a prompt, from a pipe without."""

    commands: Mapping[str, tuple[str, Command]] = field(
        default_factory=dict[str, tuple[str, Command]]
    )
    """Name -> what it does, in words, and the doing."""
    person: bool = field(default_factory=lambda: sys.stdin.isatty())

    def __post_init__(self) -> None:
        if self.person:
            with suppress(ImportError):
                importlib.import_module("readline")  # history and editing for input()

    def text(self, prompt: str) -> str:
        """The next text that is not a command. Raises Quit at the end of input."""
        while True:
            line = self.line(prompt)
            if line.startswith("/"):
                self._obey(line)
            elif line.startswith(QUOTES):
                return self._block(line.removeprefix(QUOTES))
            elif line.strip():
                return line

    def pause(self, prompt: str) -> None:
        """Wait for Enter; commands are carried out meanwhile. Raises Quit at the end of input."""
        while (line := self.line(prompt)).startswith("/"):
            self._obey(line)

    def line(self, prompt: str) -> str:
        """One line as it is; Ctrl-C at the prompt forgets it. Raises Quit at the end of input."""
        while True:
            try:
                return input(prompt if self.person else "")
            except EOFError:
                raise Quit from None
            except KeyboardInterrupt:
                click.echo("\n(/quit leaves)", err=True)

    def _block(self, first: str) -> str:
        lines = [first] if first else []
        while True:
            line = self.line("... ")
            if line.rstrip().endswith(QUOTES):
                return "\n".join([*lines, line.rstrip().removesuffix(QUOTES)]).rstrip("\n")
            lines.append(line)

    def _obey(self, line: str) -> None:
        name, _, rest = line[1:].partition(" ")
        if name in ("quit", "q", "exit"):
            raise Quit
        known = self.commands.get(name)
        if known is None:
            click.echo(help_text(self.commands), err=True)
        else:
            known[1](rest.strip())


def help_text(commands: Mapping[str, tuple[str, Command]]) -> str:
    """The commands, a line each."""
    rows: Sequence[tuple[str, str]] = [
        *((name, words) for name, (words, _) in commands.items()),
        ("quit", "leave, as Ctrl-D does"),
    ]
    lines = [f"  /{name:<8} {words}" for name, words in rows]
    return "\n".join([*lines, f"  {QUOTES}        begins and ends a text of several lines"])


__all__ = ["QUOTES", "Command", "Lines", "Quit", "help_text"]
