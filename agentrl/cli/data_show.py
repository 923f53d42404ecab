"""`agentrl data show`: tasks of an environment or a file, with what an expert would do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from agentrl.cli.words import json_option, words_argument

if TYPE_CHECKING:
    from agentrl.config import RunConfig
    from agentrl.env import Env
    from agentrl.types import JsonValue, Task

SHOWN = 3
"""Tasks shown unless `n=` says otherwise."""
LONG = 600
"""Characters of a metadata value before its middle is left out, for people."""


@click.command("show")
@words_argument
@json_option
def command(words: tuple[str, ...], as_json: bool) -> None:
    """Show tasks: question, answer, metadata, and the expert's turns.

    \b
    agentrl data show env=search_qa                    three training tasks
    agentrl data show env=search_qa n=5 split=test     five held-out ones
    agentrl data show env=search_qa data.path=questions.jsonl
    """
    from agentrl.compose import compose
    from agentrl.train.setup import env_factory

    n, split, rest = _own_words(words)
    config = compose(rest)
    env = env_factory(config.env)()
    for number, task in enumerate(_tasks(config, env, split, n), 1):
        shown = described(task, env, config.seed)
        if as_json:
            click.echo(json.dumps(shown))
        else:
            click.echo("\n".join([*([""] if number > 1 else []), *lines(shown)]))


def _own_words(words: Sequence[str]) -> tuple[int, str, list[str]]:
    """`n` and `split`, and the words of the configuration. Raises UserError on a bad number."""
    from agentrl.errors import UserError

    own = {"n": str(SHOWN), "split": "train"}
    rest: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in own:
            own[key] = value
        else:
            rest.append(word)
    if not own["n"].isdecimal() or int(own["n"]) < 1:
        raise UserError(f"n={own['n']}: give a number of tasks, at least 1")
    return int(own["n"]), own["split"], rest


def _tasks(config: RunConfig, env: Env, split: str, n: int) -> Sequence[Task]:
    """The first tasks of a file, or of a split of the environment's own."""
    from agentrl.train.setup import eval_tasks

    exam = config.eval.model_copy(update={"split": split, "tasks": n})
    return eval_tasks(config.model_copy(update={"eval": exam}), env)


def described(task: Task, env: Env, seed: int) -> Mapping[str, JsonValue]:
    """What is shown of a task; `expert` is null where the environment cannot demonstrate it."""
    return {
        "id": task.id,
        "question": task.question,
        "answer": task.answer,
        "metadata": dict(task.metadata),
        "expert": _turns(task, env, seed),
    }


def _turns(task: Task, env: Env, seed: int) -> list[str] | None:
    from agentrl.env import Expert
    from agentrl.errors import UserError

    if not isinstance(env, Expert):
        return None
    try:
        return list(env.expert(task, seed=seed))
    except UserError:  # a task from a file: its expert knows generated ones only
        return None


def lines(shown: Mapping[str, JsonValue]) -> Iterator[str]:
    """The task for people."""
    yield click.style(str(shown["id"]), bold=True)
    yield from _field("question", str(shown["question"]))
    yield from _field("answer", "-" if shown["answer"] is None else str(shown["answer"]))
    metadata = shown["metadata"]
    for key, value in metadata.items() if isinstance(metadata, Mapping) else ():
        yield from _field(key, _short(value))
    turns = shown["expert"]
    if not isinstance(turns, list):
        yield from _field("expert", "-")
        return
    for number, turn in enumerate(turns, 1):
        yield from _field(f"turn {number}", str(turn))


def _field(name: str, text: str) -> Iterator[str]:
    first, *others = text.splitlines() or [""]
    yield f"{name:>14}  {first}"
    yield from (f"{'':>14}  {line}" for line in others)


def _short(value: JsonValue) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONG else f"{text[: LONG // 2]} ... {text[-LONG // 2 :]}"


__all__ = ["command", "described", "lines"]
