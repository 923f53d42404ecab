"""The model card of an exported checkpoint: what the run was, without paths and without secrets.

Only named fields of the configuration are shown, never its free options: a path or a key that
somebody gave a plug-in stays at home.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, cast

from agentrl.config import RunConfig
from agentrl.errors import UserError
from agentrl.model_path import shipped_models
from agentrl.train.folder import RunFolder

EVALS: Mapping[str, str] = {
    "eval/accuracy": "accuracy",
    "eval/accuracy_low": "accuracy, low end of the 95 % interval",
    "eval/accuracy_high": "accuracy, high end of the 95 % interval",
    "eval/calls": "tool calls per episode",
}
"""Metric -> its words."""

_RECIPE = re.compile(r"(?<!\S)recipe=([\w.+-]+)")


@dataclass(frozen=True, slots=True)
class About:
    """What a card is written from."""

    config: RunConfig
    run: Mapping[str, Any]
    """`run.json`."""
    step: int
    """Steps behind the exported weights."""
    is_best: bool
    dtype: str
    n_parameters: int
    evals: Mapping[str, float]
    """Metrics of the last evaluation up to `step`; empty where there was none."""
    eval_step: int
    """The step it was made at."""


def about(
    folder: RunFolder, config: RunConfig, *, step: int, is_best: bool, dtype: str, n_parameters: int
) -> About:
    """Collect from the run folder. Raises UserError when its run.json cannot be read."""
    try:
        run = cast(dict[str, Any], json.loads((folder.path / "run.json").read_text()))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder.path}/run.json cannot be read: {error}") from None
    evals, at = _evals(folder, step)
    return About(config, run, step, is_best, dtype, n_parameters, evals, at)


def _evals(folder: RunFolder, step: int) -> tuple[dict[str, float], int]:
    """The last line up to `step` that holds an evaluation; a half-written line is passed over."""
    found: dict[str, float] = {}
    at = 0
    if not folder.metrics.is_file():
        return found, at
    for text in folder.metrics.read_text(errors="replace").splitlines():
        if "eval/accuracy" not in text:
            continue
        try:
            line = cast(dict[str, float | None], json.loads(text))
        except ValueError:
            continue
        number = line.get("step")
        if number is None or number >= step:  # lines count from 0, checkpoints from 1
            continue
        values = {name: line.get(name) for name in EVALS}
        found = {k: v for k, v in values.items() if v is not None and math.isfinite(v)}
        at = int(number) + 1
    return found, at


def card(about: About) -> str:
    """The README.md of an exported folder."""
    base = _base(about.config.model.path)
    front = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    if base.hub is not None:
        front.append(f"base_model: {base.hub}")
    front += ["tags:", "- agentrl", "- reinforcement-learning", "- tool-use", "---"]
    plural = "" if about.step == 1 else "s"
    kept = "the best by evaluation" if about.is_best else "the latest"
    text = [
        *front,
        "",
        f"# {base.name} after {about.step} step{plural} in {_bare(about.config.env.name)}",
        "",
        f"A causal language model of {about.n_parameters:,} parameters in {about.dtype}, trained with "
        f"agentrl {about.run.get('agentrl', 'of an unknown version')}. "
        f"These weights are {kept} checkpoint of the run.",
        "",
        *_table("The run", _run_rows(about)),
        *_table(*_eval_rows(about)),
        *_table("Versions", _version_rows(about)),
        "## Use",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        "model = AutoModelForCausalLM.from_pretrained(folder)",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        "```",
        "",
        f"`vllm serve <folder>` serves it. It was trained at temperature "
        f"{about.config.rollout.temperature:g}, in rows of at most "
        f"{about.config.env.max_tokens:,} tokens.",
    ]
    return "\n".join(text) + "\n"


def _run_rows(about: About) -> list[tuple[str, str]]:
    config, algo = about.config, about.config.algo
    command = str(about.run.get("command", ""))
    recipes = _RECIPE.findall(command)
    if command.startswith("agentrl sft"):
        return _sft_rows(about, recipes)
    corrected = algo.offpolicy.level
    rows = [
        ("recipe", ", ".join(recipes)),
        ("advantage", _bare(algo.advantage.name)),
        ("loss", f"{_bare(algo.loss.name)}, {algo.aggregate}"),
        ("gate", _bare(algo.gate.name) if algo.gate else ""),
        ("rewards", ", ".join(["env", *(_bare(reward.name) for reward in algo.rewards)])),
        ("shapers", ", ".join(_bare(shaper.name) for shaper in algo.shapers)),
        ("off-policy correction", "" if corrected == "off" else corrected),
        ("plan", _bare(config.rollout.plan.name)),
        ("environment", _bare(config.env.name)),
        ("tool protocol", _bare(config.env.protocol) if config.env.protocol else ""),
        ("turns, calls", f"at most {config.env.max_turns}, {config.env.max_calls}"),
        ("steps", f"{about.step} of {config.train.steps}, {config.train.mode}"),
        ("tasks x samples a step", f"{config.train.tasks_per_step} x {config.rollout.group_size}"),
        ("learning rate", f"{config.learner.lr:g}"),
        ("seed", str(config.seed)),
        ("configuration", f"fingerprint {about.run.get('fingerprint', '-')}"),
    ]
    return [(name, value) for name, value in rows if value]


def _sft_rows(about: About, recipes: Sequence[str]) -> list[tuple[str, str]]:
    config = about.config
    shown = "a file of conversations" if config.sft.path else "the environment's expert"
    return [
        *([("recipe", ", ".join(recipes))] if recipes else []),
        ("method", "supervised, on demonstrations"),
        ("demonstrations", shown),
        ("environment", _bare(config.env.name)),
        ("steps", f"{about.step} of {config.sft.batch} rows"),
        ("learning rate", f"{config.sft.lr:g}"),
        ("seed", str(config.seed)),
        ("configuration", f"fingerprint {about.run.get('fingerprint', '-')}"),
    ]


def _eval_rows(about: About) -> tuple[str, list[tuple[str, str]]]:
    title = "Evaluation"
    if not about.evals:
        return title, [("accuracy", "not evaluated while training (eval.every=0)")]
    rows = [(EVALS[name], f"{value:.3f}") for name, value in about.evals.items()]
    asked = about.config.eval
    how = f"{asked.tasks} tasks x {asked.samples} at temperature {asked.temperature:g}"
    return title, [("made", f"after step {about.eval_step}, {how}"), *rows]


def _version_rows(about: About) -> list[tuple[str, str]]:
    versions = cast(Mapping[str, str], about.run.get("versions") or {})
    rows = [("agentrl", str(about.run.get("agentrl", "-"))), *versions.items()]
    if about.run.get("python"):
        rows.append(("python", str(about.run["python"])))
    if about.run.get("git"):
        rows.append(("commit", str(about.run["git"])))
    return rows


def _table(title: str, rows: Sequence[tuple[str, str]]) -> list[str]:
    lines = [f"| {name} | {value.replace('|', '/')} |" for name, value in rows]
    return [f"## {title}", "", "| | |", "|---|---|", *lines, ""]


@dataclass(frozen=True, slots=True)
class _Base:
    name: str
    hub: str | None
    """Its hub id, where that is what the run was given."""


def _base(path: str) -> _Base:
    """What the run started from, by name: a folder is known by its last part only."""
    name = PurePath(path).name or path
    hub = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path) is not None and not path.startswith("runs/")
    return _Base(name, path if hub and path not in shipped_models() else None)


def _bare(name: str) -> str:
    """A registered name as it is; of `folder/file.py:Attr` what follows the folder."""
    return re.split(r"[/\\]", name)[-1]


__all__ = ["About", "about", "card"]
