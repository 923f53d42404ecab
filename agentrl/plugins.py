"""From a configuration node to the plug-in it names: options checked, then the factory called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from agentrl.config import Plugin
from agentrl.errors import UserError
from agentrl.explained import explained
from agentrl.registry import resolve
from agentrl.tool import Tool
from agentrl.toolset import Named

HOST_ARGUMENTS = frozenset(
    {
        "model",
        "tokenizer",
        "renderer",
        "tasks",
        "stream",
        "dtype",
        "seed",
        "deterministic",
        "group_size",
        "expert",
        "limits",
    }
)
"""Names that the host hands in; a config never sets them as plug-in options."""


def options(kind: str, node: Plugin) -> Mapping[str, object]:
    """The plug-in's options as keyword arguments, checked against its factory's signature.

    Raises UserError on an unknown option or a wrong type.
    """
    factory = resolve(kind, node.name)
    model = _options_model(kind, node.name, factory)
    try:
        parsed = model.model_validate(dict(node.given))
    except ValidationError as error:
        raise UserError(explained(error, model, prefix=kind, extra=_own_fields(node))) from None
    return {name: getattr(parsed, name) for name in parsed.model_fields_set}


def accepts(kind: str, name: str, option: str) -> bool:
    """Whether the plug-in's factory has an option of that name."""
    return option in _parameters(resolve(kind, name))


def maker(kind: str, node: Plugin, **host: Any) -> Callable[[], Any]:
    """A function that makes the plug-in, again and again, from options checked once.

    Host values whose names the factory lacks are left out; an option of the node wins over them.
    Raises UserError on an unknown, wrong or missing option.
    """
    factory = resolve(kind, node.name)
    known = inspect.signature(factory).parameters
    handed = {name: value for name, value in host.items() if name in known}
    arguments = {**handed, **options(kind, node)}
    for name, parameter in _parameters(factory).items():
        if parameter.default is parameter.empty and name not in arguments:
            raise UserError(f"{kind} {node.name!r} needs {kind}.{name}=...")
    return partial(factory, **arguments)


def build(kind: str, node: Plugin, **host: Any) -> Any:
    """Make the plug-in once: see `maker`."""
    return maker(kind, node, **host)()


def build_tool(node: Plugin | str) -> Named:
    """The tool or toolset that a config names, with its options.

    Raises UserError on an unknown name or option, and on options of a ready-made tool.
    """
    node = Plugin(name=node) if isinstance(node, str) else node
    found: object = resolve("tool", node.name)
    if isinstance(found, type) or not isinstance(found, Tool):
        return build("tool", node)
    if node.given:
        raise UserError(f"the tool {node.name!r} has no options; leave out {', '.join(node.given)}")
    return found


def _parameters(factory: Any) -> Mapping[str, inspect.Parameter]:
    keyword = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {
        name: parameter
        for name, parameter in inspect.signature(factory, eval_str=True).parameters.items()
        if parameter.kind in keyword and name not in HOST_ARGUMENTS and not name.startswith("_")
    }


@cache
def _options_model(kind: str, name: str, factory: Any) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for parameter in _parameters(factory).values():
        annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
        default = None if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (annotation, default)
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    return create_model(f"{kind}_{name}", __config__=config, **fields)


def _own_fields(node: Plugin) -> tuple[str, ...]:
    return tuple(type(node).model_fields)
