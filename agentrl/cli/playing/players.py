"""Who writes the turns: the policy, a person, the environment's expert, or chance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from agentrl.chat.base import Renderer
from agentrl.engine.base import Sampling
from agentrl.engine.scripted import ScriptedEngine
from agentrl.env import Env, Expert, RandomPlayer
from agentrl.errors import UserError
from agentrl.seeds import derive
from agentrl.transcript import Int32Array
from agentrl.types import Task

if TYPE_CHECKING:
    from agentrl.cli.playing.table import Table

CHUNK = 8
"""Tokens between two looks at what the policy writes."""


class Player(Protocol):
    """Writes turns."""

    def turn(self, table: Table) -> None:
        """Write the unfinished turn of `table.episode`. Raises Quit when the player leaves."""
        ...


class Policy:
    """The engine writes, shown as it does."""

    def __init__(self, *, whole: bool, at_most: int | None = None) -> None:
        """
        whole: the engine cannot go on with a turn, so it is written in one piece. at_most: tokens
        after which a turn counts as complete, where there is no environment to end it.
        """
        self._whole, self._at_most = whole, at_most

    def turn(self, table: Table) -> None:
        """Chunk by chunk until the turn is complete, or the person interrupts."""
        started, shown = monotonic(), 0
        while not self._done(table):
            table.write(self._room(table))
            text = table.episode.text.rstrip("\ufffd")  # a character whose bytes are not all there
            table.screen.stream(text[shown:])
            shown = max(shown, len(text))
        table.screen.end_of_turn(table.n_written, monotonic() - started)

    def _done(self, table: Table) -> bool:
        episode = table.episode
        if self._at_most is not None and table.n_written >= self._at_most:
            return True
        stops = table.stage.parts.protocol.stops
        return (
            episode.complete
            or episode.stop is not None
            or table.interrupted
            or any(stop in episode.text for stop in stops)  # one that two chunks spell together
        )

    def _room(self, table: Table) -> int | None:
        """A chunk; one token where a stop string may be on its way."""
        left = None if self._at_most is None else self._at_most - table.n_written
        if self._whole:
            return left
        text = table.episode.text
        begun = any(
            text.endswith(stop[:n])
            for stop in table.stage.parts.protocol.stops
            for n in range(1, len(stop))
        )
        return 1 if begun else min(CHUNK, left or CHUNK)


class Written:
    """Turns that come as text: each is written by a scripted engine, which knows control tokens."""

    def __init__(self, renderer: Renderer, source: Callable[[Table], str], *, echo: bool) -> None:
        """`source` gives the next turn's text; `echo` shows it."""
        self.engine = ScriptedEngine(
            self._reply,
            tokenizer=renderer.tokenizer,
            encode=renderer.demo,
            end_id=renderer.stop_ids[0],
        )
        self._source, self._echo, self._next = source, echo, ""

    def _reply(self, row: Int32Array, sampling: Sampling, index: int) -> str:
        return self._next

    def turn(self, table: Table) -> None:
        """Ask the source, then write."""
        self._next = self._source(table)
        table.write(None)
        if self._echo:
            table.screen.stream(table.episode.text)
            table.screen.end_of_turn(table.n_written, 0.0)


def me(table: Table) -> str:
    """What the person types."""
    return table.lines.text("act> ")


def expert(env: Env) -> Callable[[Table], str]:
    """The environment's own demonstration. Raises UserError when it has none."""
    if not isinstance(env, Expert):
        raise UserError("this environment has no expert; choose player=policy, me or random")
    coming: dict[str, Iterator[str]] = {}

    def turns(task: Task) -> Iterator[str]:
        if task.id not in coming:
            coming[task.id] = iter(env.expert(task, seed=task.seed))
        return coming[task.id]

    def source(table: Table) -> str:
        text = next(turns(table.task), None)
        if text is None:
            raise UserError("the expert has no turn left, yet the episode goes on")
        return text

    return source


def blind(env: Env, seed: int) -> Callable[[Table], str]:
    """Turns of the right form with random content. Raises UserError when their form is not known."""
    if not isinstance(env, RandomPlayer):
        raise UserError("this environment has no random_turn; choose player=policy, me or expert")
    rng = Random(derive("random player", seed))
    return lambda table: env.random_turn(rng)


__all__ = ["Player", "Policy", "Written", "blind", "expert", "me"]
