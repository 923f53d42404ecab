"""What commands share: the `key=value` words with their completion, and `--json`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
from click.shell_completion import CompletionItem

from agentrl.errors import SetupError

F = TypeVar("F", bound=Callable[..., Any])

KIND_OF_GROUP = {"env": "env", "engine": "engine", "learner": "learner", "sandbox": "sandbox"}
"""Config group -> the kind of plug-in that may be named there without a file."""


class Word(click.ParamType[str]):
    """One `key=value`, `@file` or `recipe=name` word; parsed by `agentrl.compose`, completed here.

    bash cuts words at `=`, so there the key arrives as the two words before the one being
    completed; zsh and fish hand over `key=val` whole.
    """

    name = "word"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[Any]]:
        """Candidates for the word under the cursor."""
        before: tuple[str, ...] = tuple(ctx.params.get(param.name or "") or ())
        if incomplete.startswith("@"):
            return [CompletionItem(incomplete, type="file")]
        key, equals, start = incomplete.partition("=")
        if equals and key:
            found = [f"{key}={value}" for value in values_of(key) if value.startswith(start)]
        elif before[-1:] == ("=",) and len(before) > 1:
            found = [value for value in values_of(before[-2]) if value.startswith(incomplete)]
        elif not incomplete and before and before[-1].isidentifier():
            found = values_of(before[-1])
        else:
            found = [f"{name}=" for name in keys() if name.startswith(incomplete)]
        return [CompletionItem(value) for value in found]


def keys() -> list[str]:
    """Every key of the configuration, groups first, then dotted leaves."""
    from agentrl.compose import GROUPS
    from agentrl.config import RunConfig

    return [*GROUPS, "recipe", *(key for key, _ in _leaves(RunConfig, "") if key not in GROUPS)]


def values_of(key: str) -> list[str]:
    """Values worth offering for a key: config files, plug-ins, literals, booleans."""
    from agentrl.compose import GROUPS, group_names
    from agentrl.config import RunConfig
    from agentrl.registry import names

    if key in GROUPS or key == "recipe":
        plugins = names(KIND_OF_GROUP[key]) if key in KIND_OF_GROUP else ()
        return sorted({*group_names(key), *plugins})
    return list(_choices_of(dict(_leaves(RunConfig, "")).get(key)))


def _choices_of(annotation: Any) -> Iterator[str]:
    """What a type allows, where that can be listed; members of a union one after another."""
    if annotation is bool:
        yield from ("false", "true")
    elif get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    else:
        for member in get_args(annotation):
            if member is bool or get_origin(member) is Literal:
                yield from _choices_of(member)


def _leaves(model: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        if hasattr(field.annotation, "model_fields"):
            yield from _leaves(field.annotation, f"{key}.")
        else:
            yield key, field.annotation


def words_argument(function: F) -> F:
    """The `WORDS...` argument of a command that takes a configuration."""
    return click.argument("words", nargs=-1, type=Word(), metavar="[KEY=VALUE | @FILE]...")(
        function
    )


def json_option(function: F) -> F:
    """`--json`: machine-readable lines on standard output."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")(
        function
    )


def refuse_windows() -> None:
    """Raises SetupError where runs cannot work at all."""
    if sys.platform == "win32":
        raise SetupError(
            "agentrl trains on Linux and macOS; on Windows open WSL (`wsl --install`), then "
            "install and run agentrl inside it"
        )
