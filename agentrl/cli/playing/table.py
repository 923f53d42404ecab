"""One conversation at the table: turns are written, looked at, answered, taken back and saved.

The event loop runs in a thread of its own, so that this one can read lines and hear Ctrl-C.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future, TimeoutError
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from anyio.from_thread import BlockingPortal

from agentrl.cli.playing.lines import Command, Lines, Quit, help_text
from agentrl.cli.playing.players import Player
from agentrl.cli.playing.saved import Saved, Turn
from agentrl.cli.playing.screen import Screen
from agentrl.cli.playing.stage import Stage
from agentrl.cli.playing.watched import Watch
from agentrl.env import Action, Expert, StepResult
from agentrl.points import Ctx, Services, needs_of
from agentrl.tool import Tool
from agentrl.train.collect import score
from agentrl.train.setup import plugins
from agentrl.trajectory import Group, Trajectory
from agentrl.types import Task, ToolCall

T = TypeVar("T")
SLICE_S = 0.2
"""Of a wait: one without end would not hear Ctrl-C everywhere."""


class _Place(NamedTuple):
    """Where a turn stands."""

    context: str
    start: int
    """Tokens of its row before it."""
    end: int


class Table:
    """Plays one task; what the person may do in between are its commands."""

    def __init__(
        self,
        portal: BlockingPortal,
        stage: Stage,
        screen: Screen,
        lines: Lines,
        watch: Watch,
        player: Player,
        *,
        talking: bool = False,
        approve: bool = False,
        reads: bool = False,
    ) -> None:
        """talking: the person answers every turn that calls nothing, as there is no task to end.
        approve: ask before each call. reads: the player is shown the row first.
        """
        self.stage, self.screen, self.lines = stage, screen, lines
        self.interrupted = False
        self._portal, self._watch, self._player = portal, watch, player
        self._talking, self._approve = talking, approve
        self._turns: list[Turn] = []
        self._places: list[_Place] = []
        self._results: list[str] = []
        self._quiet = False
        self._player_reads = reads
        watch.stepped = self._stepped
        lines.commands = {**self._commands(), **lines.commands}

    def play(self, task: Task, number: int, reopened: Saved | None = None) -> Trajectory:
        """One episode from its first messages to its end, or to where the person leaves it."""
        self.task, self._branches = task, 0
        self._turns, self._places, self._results = [], [], []
        self._watch.said.clear()
        self._watch.declined.clear()
        ctx = Ctx(step=number, total_steps=number + 1, seed=self.stage.config.seed)
        live = self.stage.runner.live(task, 0, ctx)
        with self._portal.wrap_async_context_manager(live) as self.episode:
            try:
                self._begin()
                if reopened is not None:
                    self._replay(reopened)
                while self.episode.stop is None:
                    self._turn()
            except Quit:
                self.screen.note("left")
            played = self.episode.finish()
        return self._portal.call(self._scored, played)

    def _begin(self) -> None:
        """Show what a player needs to know."""
        if self._player_reads:
            self._row()
        elif not self._talking:
            self.screen.said("task", self.task.question)

    async def _scored(self, played: Trajectory) -> Trajectory:
        """With the components of the configured rewards; those that need a model or judge are not asked."""
        config, runner = self.stage.config, self.stage.runner
        rewards = plugins("reward", config.algo.rewards)
        asked = tuple(r for r in rewards if not needs_of(r) & {"scorer", "judge"})
        services = Services(episodes=runner, rewards=asked)
        (group,) = await score([Group(played.task, (played,))], services)
        return group.trajectories[0]

    @property
    def n_written(self) -> int:
        """Tokens of the unfinished turn."""
        return len(self.episode.row) - self.episode.turn_start

    def write(self, max_tokens: int | None) -> None:
        """The player's engine writes on."""
        self._call(partial(self.episode.write, max_tokens=max_tokens))

    def _turn(self) -> None:
        self.interrupted = False
        self._player.turn(self)
        if self.episode.stop is None and self._settled():
            self._act()

    def _settled(self) -> bool:
        """What the person has to say to a turn before it is acted upon; False takes it back."""
        calls = self._calls()
        if self.interrupted and not self._talking:
            self.lines.pause("interrupted; Enter goes on, /help shows what else can be done ")
            return self.episode.complete
        if self._talking and (self.interrupted or not calls):
            return self._answered()
        if self._approve and calls:
            for call in calls:
                shown = json.dumps(dict(call.arguments), ensure_ascii=False)
                self.screen.note(f"wants to call {call.name} {shown}", "cyan")
                if self.lines.line("run it? [Y/n] ").strip().lower().startswith("n"):
                    self._watch.declined.add(call.id)
                else:
                    self._watch.declined.discard(call.id)  # it may have been, before an /undo
        return True

    def _answered(self) -> bool:
        """Ask what the person says to the turn; False when they went back instead."""
        episode = self.episode
        text = self.lines.text("you> ")
        self._watch.said[len(self._turns) + 1] = text
        if self.episode is not episode:  # an exchange was taken back: its first words are new
            self._act()
        return self.episode is episode

    def _calls(self) -> tuple[ToolCall, ...]:
        row, episode = self.episode.row, self.episode
        ids = row.token_ids[episode.turn_start :]
        parsed = self.stage.parts.protocol.parse(
            ids, episode.text, turn=max(0, episode.n_turns - 1)
        )
        return parsed.tool_calls

    def _act(self) -> None:
        episode = self.episode
        start = episode.turn_start
        row = episode.row
        self._places.append(_Place(row.context, start, len(row)))
        self._turns.append(Turn(row.token_ids[start:].tolist(), row.logprobs[start:].tolist()))
        self._call(episode.act, interrupt=self._watch.interrupt)

    def _stepped(self, action: Action, result: StepResult) -> None:
        self._results += [found.content for found in result.info.results]
        if not self._quiet:
            self.screen.stepped(result, person=self._talking)

    def _replay(self, saved: Saved) -> None:
        """Bring a fresh episode to where a saved one was; its tools really run again."""
        self._watch.declined.update(saved.declined)
        self._watch.said.update(saved.said)
        for turn in saved.turns:
            self.episode.force(turn.token_ids, turn.logprobs)
            self.screen.stream(self.episode.text)
            self.screen.note("")
            self._act()
        if self._results != list(saved.results):
            self.screen.note("the tools answered otherwise than before", "yellow")

    def _commands(self) -> Mapping[str, tuple[str, Command]]:
        shown: dict[str, tuple[str, Command]] = {
            "help": ("what can be typed", lambda _: self._help()),
            "row": (
                "the context as the policy reads it, by origin and mask",
                lambda _: self._row(),
            ),
            "ids": ("the same as token ids", lambda _: self.screen.ids(self.episode.row)),
            "tools": ("what can be called, and how a call is written", lambda _: self._tools()),
            "undo": ("take the last turn back", lambda _: self._undo()),
            "save": ("FILE: keep the conversation; --open FILE goes on", self._save),
        }
        if not self._talking:
            shown["hint"] = ("the expert's next turn, as text", lambda _: self._hint())
        return shown

    def _help(self) -> None:
        self.screen.note(help_text(self.lines.commands), "")

    def _row(self) -> None:
        self.screen.row(self.episode.row, self.stage.parts.renderer.tokenizer)

    def _tools(self) -> None:
        protocol = self.stage.parts.protocol
        for tool in self.stage.tools:
            self.screen.note(f"{tool.name}: {tool.description}", "")
            try:
                self.screen.note(f"  {protocol.call_text(tool.name, _example(tool))!r}")
            except ValueError as error:
                self.screen.note(f"  ({error})")

    def _hint(self) -> None:
        env = self.stage.env
        if not isinstance(env, Expert):
            self.screen.note("this environment has no expert", "yellow")
            return
        turns = list(env.expert(self.task, seed=self.task.seed))
        here = len(self._turns)
        self.screen.note(turns[here] if here < len(turns) else "the expert would have ended", "")

    def _save(self, name: str) -> None:
        if not name:
            self.screen.note("say where: /save FILE", "yellow")
            return
        saved = Saved(
            self.stage.words, self.task, dict(self._watch.said), tuple(self._turns),
            sorted(self._watch.declined), tuple(self._results),
        )  # fmt: skip
        try:
            saved.write(Path(name).expanduser())
        except OSError as error:
            self.screen.note(f"{name} cannot be written: {error.strerror}", "red")
        else:
            self.screen.note(f"saved; agentrl run --open {name} goes on")

    def _undo(self) -> None:
        """Back to where the last turn began, or to where the person last spoke."""
        if self._talking:
            kept = (
                max((turn for turn in self._watch.said if turn <= len(self._turns)), default=0) - 1
            )
        else:
            kept = len(self._turns) - 1
        if kept < 0:
            self.screen.note("there is nothing to take back", "yellow")
            return
        if not self._branched(self._places[kept]):
            self.screen.note("a turn of an earlier context cannot be taken back", "yellow")
            return
        del self._turns[kept:], self._places[kept:]
        for turn in [turn for turn in self._watch.said if turn > kept]:
            del self._watch.said[turn]
        self.screen.note("taken back" if self._talking else f"back before turn {kept + 1}")

    def _branched(self, place: _Place) -> bool:
        """Go on in a branch that ends at a turn's beginning, in a conversation at its end."""
        if place.context != self.episode.row.context:
            return False
        at = place.end if self._talking else place.start
        kept, self._results = self._results, []  # what is played again answers again
        self._branches += 1
        self._quiet = True
        try:
            (self.episode,) = self._call(partial(self.episode.fork, [self._branches], at=at))
        except ValueError:  # the row was left and taken up again since
            self._results = kept
            return False
        finally:
            self._quiet = False
        return True

    def _call(
        self,
        work: Callable[[], Coroutine[Any, Any, T]],
        interrupt: Callable[[], None] | None = None,
    ) -> T:
        """Run in the event loop. Ctrl-C asks for an end, gently; the second one leaves."""
        running: Future[T] = self._portal.start_task_soon(work)
        while True:
            try:
                return running.result(SLICE_S)
            except TimeoutError:
                if running.done():
                    raise
            except KeyboardInterrupt:
                if self.interrupted:
                    running.cancel()
                    raise
                self.interrupted = True
                if interrupt is not None:
                    self._portal.call(interrupt)


def _example(tool: Tool) -> dict[str, Any]:
    properties = tool.schema.get("properties")
    names = list(properties) if isinstance(properties, Mapping) else []
    return {str(name): "..." for name in names}


__all__ = ["Table"]
