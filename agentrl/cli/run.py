"""`agentrl run`: watch an agent, or be it, in a live sandbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentrl.cli.words import json_option, refuse_windows, words_argument
from agentrl.errors import UserError

if TYPE_CHECKING:
    from agentrl.cli.playing.lines import Lines
    from agentrl.cli.playing.players import Player
    from agentrl.cli.playing.saved import Saved
    from agentrl.config import RunConfig
    from agentrl.env import Env
    from agentrl.toolset import Named
    from agentrl.types import Task

PLAYERS = ("policy", "me", "expert", "random")
OWN = ("player", "tools")
"""Words that are this command's and not the configuration's."""
ENDLESS = ("env.max_turns=100000", "env.max_calls=100000", "env.episode_s=null")
"""Weaker than what is given: a conversation ends when the person leaves."""


@click.command("run")
@words_argument
@click.option("-n", "episodes", default=1, show_default=True, help="Tasks to play.")
@click.option("--approve", is_flag=True, help="Ask before each tool call.")
@click.option("--system", default="", metavar="TEXT", help="System message of a conversation.")
@click.option("--open", "reopened", type=click.Path(path_type=Path), metavar="FILE",
              help="Go on with a conversation that /save kept.")  # fmt: skip
@json_option
def command(
    words: tuple[str, ...],
    episodes: int,
    approve: bool,
    system: str,
    reopened: Path | None,
    as_json: bool,
) -> None:
    """Watch an agent, or be it, in a live sandbox.

    With an environment, its tasks are played; with tools alone you talk to the model. Ctrl-C
    interrupts what is being written or run; /help lists what can be typed. Without a terminal,
    each line of the input is one message or one turn.

    \b
    agentrl run env=retool_math                       the shipped model plays
    agentrl run env=retool_math player=me             you do, and see what the policy would see
    agentrl run env=retool_math player=expert -n 3    how it is done
    agentrl run tools=python model=runs/mine          a conversation with tools
    agentrl run tools=python engine=api engine.base_url=http://127.0.0.1:8000/v1 engine.model_id=NAME
    """
    refuse_windows()
    from agentrl.cli.playing.saved import Saved

    saved = None if reopened is None else Saved.read(reopened)
    given = (*(saved.words if saved else ()), *words)
    own, rest = split(given)
    player = own.get("player", "policy")
    if player not in PLAYERS:
        raise UserError(f"player={player} is not one of {', '.join(PLAYERS)}")
    if episodes < 1:
        raise UserError("-n is at least 1")
    talk = "tools" in own
    if talk and any(word.startswith("env=") for word in rest):
        raise UserError("an environment brings its own tools; give env=... or tools=..., not both")
    from agentrl.compose import compose

    config = compose([*(ENDLESS if talk else ()), *rest])
    game = _Game(given, config, player, approve, as_json)
    if talk:
        game.talk(own["tools"], system, saved)
    else:
        game.play(episodes, saved)


def split(words: Sequence[str]) -> tuple[Mapping[str, str], Sequence[str]]:
    """This command's own words, by key, and those of the configuration."""
    own: dict[str, str] = {}
    rest: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in OWN:
            own[key] = value
        else:
            rest.append(word)
    return own, rest


class _Game:
    """Puts the parts together, and plays."""

    def __init__(
        self, words: Sequence[str], config: RunConfig, player: str, approve: bool, as_json: bool
    ) -> None:
        self._words, self._config, self._player = words, config, player
        self._approve, self._as_json = approve, as_json

    def play(self, episodes: int, saved: Saved | None) -> None:
        """Tasks of an environment."""
        from agentrl.cli.playing.lines import Lines
        from agentrl.train.setup import env_factory, eval_tasks, with_tasks

        make_env = env_factory(self._config.env)
        env = make_env()
        tasks = [saved.task] if saved else eval_tasks(with_tasks(self._config, episodes), env)
        self._run(make_env, env, tasks, saved, Lines(), talking=False)

    def talk(self, tools: str, system: str, saved: Saved | None) -> None:
        """A conversation; the person's first words are its task."""
        from agentrl.cli.playing.lines import Lines, Quit
        from agentrl.cli.playing.talk import Talk
        from agentrl.types import Task

        made = _tools(tools)
        made()  # a name or an option that is wrong is said before anything is asked
        call_s = self._config.env.call_s

        def make_env() -> Env:
            return Talk(made(), system=system, call_s=call_s)

        lines = Lines()
        try:
            task = saved.task if saved else Task("talk", lines.text("you> "))
        except Quit:
            return
        self._run(make_env, make_env(), [task], saved, lines, talking=True)

    def _run(
        self,
        make_env: Callable[[], Env],
        env: Env,
        tasks: Sequence[Task],
        saved: Saved | None,
        lines: Lines,
        *,
        talking: bool,
    ) -> None:
        from anyio.from_thread import start_blocking_portal
        from rich.console import Console

        from agentrl.cli.playing.screen import Screen
        from agentrl.cli.playing.stage import opened
        from agentrl.cli.playing.table import Table
        from agentrl.cli.playing.watched import Watch, Watched
        from agentrl.model_path import model_path
        from agentrl.train import setup
        from agentrl.train.demands import check_env_partners
        from agentrl.trajectory_json import to_line

        config = self._config
        check_env_partners(config, env)
        chat = setup.open_chat(config, env)
        player = self._make_player(env, chat.renderer, talking=talking)
        engine = getattr(player, "engine", None) or setup.make_engine(
            config, chat, model_path(config.model.path), tasks
        )
        watch = Watch(lambda action, result: None)
        parts = setup.make_parts(
            config, chat, lambda: Watched(make_env(), watch), engine, config.eval.temperature
        )
        if talking:  # a long turn is cut by the player, and the conversation goes on
            limits = replace(parts.limits, turn_tokens=parts.limits.max_tokens)
            parts = replace(parts, limits=limits)
        console = Console(highlight=False, stderr=self._as_json)
        with (
            start_blocking_portal("asyncio") as portal,
            portal.wrap_async_context_manager(opened(self._words, config, parts, env)) as stage,
        ):
            screen = Screen(console, stage.isolation)
            table = Table(
                portal, stage, screen, lines, watch, player,
                talking=talking, approve=self._approve, reads=self._player == "me",
            )  # fmt: skip
            failed = 0
            for number, task in enumerate(tasks):
                played = table.play(task, number, saved)
                failed += played.error is not None
                if self._as_json:
                    click.echo(to_line(played))
                screen.ending(played, chat.tokenizer, reward=not talking)
        if failed:
            raise click.exceptions.Exit(4)

    def _make_player(self, env: Env, renderer: Any, *, talking: bool) -> Player:
        from agentrl.cli.playing.players import Policy, Written, blind, expert, me

        if self._player == "policy":
            cap = self._config.env.turn_tokens if talking else None
            return Policy(whole=self._config.engine.name == "api", at_most=cap)
        source = {
            "me": lambda: me,
            "expert": lambda: expert(env),
            "random": lambda: blind(env, self._config.seed),
        }[self._player]()
        return Written(renderer, source, echo=self._player != "me")


def _tools(text: str) -> Callable[[], list[Named]]:
    """Makes the tools that `tools=` names: `python,search` or a YAML list with options."""
    import yaml
    from pydantic import TypeAdapter, ValidationError

    from agentrl.config import Plugin
    from agentrl.plugins import build_tool

    try:
        listed = yaml.safe_load(text) if text.startswith("[") else text.split(",")
        nodes = TypeAdapter(list[Plugin | str]).validate_python(listed)
    except (yaml.YAMLError, ValidationError):
        raise UserError(
            f"tools={text} is not a list; write tools=python,search or "
            "tools='[{name: search, k: 3}, python]'"
        ) from None
    names = [node.strip() if isinstance(node, str) else node for node in nodes]
    return lambda: [build_tool(node) for node in names if node]
