"""Names -> lazily imported objects, through three doors in one order.

`register()` in this process; entry points (`agentrl.tools`, `agentrl.envs`, ...); a literal
`package.module:Attr` or `path/file.py:Attr`. First-party plug-ins use the same doors as strangers.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from agentrl.errors import SetupError, UserError

KINDS: Mapping[str, str] = {
    "tool": "agentrl.tools",
    "env": "agentrl.envs",
    "retriever": "agentrl.retrievers",
    "sandbox": "agentrl.sandboxes",
    "engine": "agentrl.engines",
    "script": "agentrl.scripts",
    "learner": "agentrl.learners",
    "renderer": "agentrl.renderers",
    "protocol": "agentrl.protocols",
    "source": "agentrl.sources",
    "plan": "agentrl.plans",
    "reward": "agentrl.rewards",
    "judge": "agentrl.judges",
    "shaper": "agentrl.shapers",
    "gate": "agentrl.gates",
    "advantage": "agentrl.advantages",
    "loss": "agentrl.losses",
    "aux": "agentrl.aux",
    "schedule": "agentrl.schedules",
}
"""Kind -> entry-point group."""

Factory = Callable[..., Any]
"""A class or function that makes the registered thing from its options."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One name a kind knows, as `agentrl list` shows it."""

    name: str
    where: str
    """`package.module:Attr`, or `registered in process`."""
    distribution: str
    """The installed package that brings it."""
    summary: str
    """First line of its docstring; empty when it cannot be loaded."""
    error: str | None
    """Why it cannot be loaded, or None."""


_registered: dict[tuple[str, str], Factory] = {}


def register(kind: str, name: str, factory: Factory) -> None:
    """Make `name` known in this process, ahead of entry points."""
    _entries(kind)
    _registered[kind, name] = factory


def resolve(kind: str, name: str) -> Factory:
    """The factory called `name`.

    Raises UserError with the nearest match and the places searched, SetupError when a plug-in
    is there but cannot be imported.
    """
    found = _registered.get((kind, name))
    if found is not None:
        return found
    entry = _entries(kind).get(name)
    if entry is not None:
        return _load(kind, name, entry.load)
    if ":" in name:
        return _load(kind, name, lambda: _literal(name))
    raise UserError(_unknown(kind, name))


def names(kind: str) -> tuple[str, ...]:
    """Every known name of a kind, sorted, without importing anything."""
    here = {name for k, name in _registered if k == kind}
    return tuple(sorted(here | set(_entries(kind))))


def listing(kind: str) -> tuple[Listed, ...]:
    """Every known name of a kind, loaded; broken plug-ins carry their error."""
    return tuple(_listed(kind, name) for name in names(kind))


def _listed(kind: str, name: str) -> Listed:
    entry = _entries(kind).get(name)
    local = (kind, name) in _registered or entry is None
    where = "registered in process" if local or entry is None else entry.value
    brought_by = entry.dist.name if entry is not None and entry.dist is not None else "-"
    try:
        text = _summary(resolve(kind, name))
    except SetupError as error:
        return Listed(name, where, brought_by, "", str(error))
    return Listed(name, where, brought_by, text.strip().partition("\n")[0], None)


def _summary(found: Any) -> str:
    """A ready-made tool describes itself; everything else has a docstring."""
    described = None if inspect.isclass(found) else getattr(found, "description", None)
    return described if isinstance(described, str) else inspect.getdoc(found) or ""


@cache
def _group(group: str) -> Mapping[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}


def _entries(kind: str) -> Mapping[str, EntryPoint]:
    if kind not in KINDS:
        raise UserError(f"there is no kind {kind!r} of plug-in; kinds: {', '.join(KINDS)}")
    return _group(KINDS[kind])


def _load(kind: str, name: str, load: Callable[[], Any]) -> Factory:
    try:
        return load()
    except UserError:
        raise
    except Exception as error:
        raise SetupError(
            f"{kind} {name!r} cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def _literal(name: str) -> Any:
    place, _, attribute = name.rpartition(":")
    module = _file_module(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    if not hasattr(module, attribute):
        raise UserError(f"{place} has no attribute {attribute!r}")
    return getattr(module, attribute)


def _file_module(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    module_name = f"agentrl_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module


def _unknown(kind: str, name: str) -> str:
    known = names(kind)
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}."
    return (
        f"there is no {kind} named {name!r}; {hint} Looked in the entry points {KINDS[kind]} "
        "(just added one? run `pip install -e .` again) and for `module:Attr` or `file.py:Attr`."
    )
