"""From files and the command line to the configuration tree.

Order, later wins: `configs/default.yaml`, what the chosen group files bring (`with:`), the group
files themselves, what a chosen run folder was trained under, recipes, user files, `key=value`
words. `env=retool_math` selects `configs/env/retool_math.yaml`, or names a plug-in that has no file;
`recipe=otc_grpo` merges `configs/recipe/otc_grpo.yaml` at the root; `@run.yaml` loads a user file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from agentrl.config import EnvConfig, RunConfig, validated
from agentrl.errors import UserError
from agentrl.plugins import accepts
from agentrl.suggest import did_you_mean
from agentrl.types import JsonValue

GROUPS: Mapping[str, str] = {
    "env": "name",
    "model": "path",
    "engine": "name",
    "learner": "name",
    "sandbox": "name",
    "algo": "",
}
"""Group -> the leaf that a bare `group=value` sets when no group file has that name."""

TRAINED = "trained"
"""In the tree of a run folder: what it was trained under, stronger than the groups' own files."""

Tree: TypeAlias = dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Words:
    """The command line's words, sorted by meaning."""

    choices: Mapping[str, str] = field(default_factory=dict[str, str])
    """Group -> chosen name."""
    recipes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()


@cache
def config_root() -> Path:
    """The folder of shipped configs: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).parent
    inside = package / "_configs"
    return inside if inside.is_dir() else package.parent / "configs"


def read_words(words: Sequence[str]) -> Words:
    """Sort the command line. Raises UserError on a word of another form."""
    choices: dict[str, str] = {}
    recipes: list[str] = []
    files: list[str] = []
    leaves: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if word.startswith("@"):
            files.append(word[1:])
        elif not equals or not key:
            raise UserError(f"{word!r} is not of the form key=value (or @file.yaml)")
        elif key == "recipe":
            recipes.append(value)
        elif key in GROUPS:
            choices[key] = value
        else:
            leaves.append(word)
    return Words(choices, tuple(recipes), tuple(files), tuple(leaves))


def compose(words: Sequence[str]) -> RunConfig:
    """The validated tree for a command line. Raises UserError.

    `resume=FOLDER` starts from that run's own configuration.
    """
    resumed = [w.partition("=")[2] for w in words if w.startswith("resume=")]
    stored = [f"@{_run_config(folder)}" for folder in resumed if folder not in ("", "null")]
    return validated(compose_tree(read_words([*stored, *words])))


def _run_config(folder: str) -> Path:
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder, so there is nothing to resume")
    return path


def compose_tree(words: Words) -> Tree:
    """The merged, not yet validated tree."""
    recipes = [_group_file("recipe", name) for name in words.recipes]
    files = [read_yaml(Path(name)) for name in words.files]
    leaves = _dotlist(words.leaves)
    chosen = _choices([*recipes, *files, dict(words.choices)])
    groups = {group: _chosen(group, name) for group, name in chosen.items()}
    base = read_yaml(config_root() / "default.yaml")
    tree = _merge(
        _without_choices(base),
        _soft([_without_choices(cast(Tree, g.pop("with", {}))) for g in groups.values()], chosen),
        {group: {k: v for k, v in g.items() if k != TRAINED} for group, g in groups.items()},
        _soft([cast(Tree, g.get(TRAINED, {})) for g in groups.values()], chosen),
    )
    return _merge(tree, *(_without_choices(t) for t in [*recipes, *files]), leaves)


def _choices(trees: Sequence[Tree]) -> dict[str, str]:
    """Which name each group takes; a tree may say `env: retool_math` or `env: {name: ...}`.

    Without an environment asked for, a trained model brings its own; without a model, the
    environment's file may suggest one (`with: {model: nano_search}`).
    """
    base = _named([read_yaml(config_root() / "default.yaml")])
    asked = _named(trees)
    if "env" not in asked and "model" in asked:
        asked = _brought("model", asked["model"], "env") | asked
    env = (base | asked).get("env")
    if "model" not in asked and env is not None:
        asked = _brought("env", env, "model") | asked
    return base | asked


def _brought(group: str, name: str, wanted: str) -> dict[str, str]:
    """The name that a chosen group's file suggests for the group `wanted`, if any."""
    tree = _chosen(group, name)
    suggested = _named([cast(Tree, tree.get(key, {})) for key in ("with", TRAINED)])
    return {key: value for key, value in suggested.items() if key == wanted}


def _named(trees: Sequence[Tree]) -> dict[str, str]:
    """The names that trees give to groups; later ones win."""
    chosen: dict[str, str] = {}
    for tree in trees:
        for group, leaf in GROUPS.items():
            value = tree.get(group)
            if isinstance(value, Mapping):
                value = cast(Mapping[str, Any], value).get(leaf)
            if isinstance(value, str):
                chosen[group] = value
    return chosen


def _chosen(group: str, name: str) -> Tree:
    path = config_root() / group / f"{name}.yaml"
    if path.is_file():
        return read_yaml(path)
    if group == "model" and (Path(name) / "run.json").is_file():
        return _trained(name)
    leaf = GROUPS[group]
    if not leaf:
        raise UserError(f"there is no {group} config {name!r}{did_you_mean(name, _known(group))}")
    return {leaf: name}


def _trained(folder: str) -> Tree:
    """A run folder as a model: it brings the environment options it was trained under."""
    stored = read_yaml(Path(folder) / "config.yaml")
    companions = {"env": stored.get("env", {}), "learner": stored.get("learner", {})}
    return {**cast(Tree, stored["model"]), "path": folder, TRAINED: companions}


def _group_file(group: str, name: str) -> Tree:
    path = config_root() / group / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"there is no {group} {name!r}{did_you_mean(name, _known(group))}")
    return read_yaml(path)


def _known(group: str) -> tuple[str, ...]:
    return tuple(sorted(p.stem for p in (config_root() / group).glob("*.yaml")))


def group_names(group: str) -> tuple[str, ...]:
    """Names of the shipped config files of a group, recipes included."""
    return _known(group)


def _soft(companions: Sequence[Tree], chosen: Mapping[str, str]) -> Tree:
    """Companion values of the group files; options the chosen environment lacks are left out."""
    tree = _merge(*companions) if companions else {}
    env = cast(Tree, tree.get("env", {}))
    name = str(_chosen("env", chosen["env"]).get("name", "")) if "env" in chosen else ""
    if env.pop("name", name) != name:
        return {**tree, "env": {}}
    kept = {
        key: value
        for key, value in env.items()
        if key in EnvConfig.model_fields or (name and accepts("env", name, key))
    }
    return {**tree, "env": kept} if env else tree


def _without_choices(tree: Tree) -> Tree:
    """The tree without bare `group: name` entries, which `_choices` has already used."""
    return {k: v for k, v in tree.items() if not (k in GROUPS and isinstance(v, str))}


def read_yaml(path: Path) -> Tree:
    """A mapping from a YAML file. Raises UserError that names the file and line."""
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except FileNotFoundError:
        raise UserError(f"there is no config file {path}") from None
    except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path} must hold a mapping of keys to values")
    return cast(Tree, loaded)


def _dotlist(leaves: Sequence[str]) -> Tree:
    try:
        return cast(
            Tree, OmegaConf.to_container(OmegaConf.from_dotlist(list(leaves)), resolve=True)
        )
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise UserError(
            f"cannot read {' '.join(leaves)!r}: {' '.join(str(error).split())}"
        ) from None


def _merge(*trees: Mapping[str, JsonValue]) -> Tree:
    merged: Tree = {}
    for tree in trees:
        merged = {**merged, **{key: _joined(merged.get(key), new) for key, new in tree.items()}}
    return merged


def _joined(old: JsonValue, new: JsonValue, depth: int = 0) -> JsonValue:
    """`new` over `old`: mappings key by key, anything else replaced.

    Below the groups, choosing another plug-in by `name` drops the options of the one before.
    """
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    if depth and "name" in new and new["name"] != old.get("name"):
        return new
    return {**old, **{key: _joined(old.get(key), value, depth + 1) for key, value in new.items()}}


def dump(config: RunConfig) -> str:
    """The resolved tree as YAML, readable back with `@file`."""
    return OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json")))
