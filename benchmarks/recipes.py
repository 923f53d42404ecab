"""Every method's recipe, run for a few steps on the shipped model; its header says what came out.

    python benchmarks/recipes.py [--only grpo,dapo] [--steps 10] [--tasks 8] [--again]

Runs the `Nano` command of each recipe's header with few steps and tasks, seed 0, one recipe after the
other, and writes benchmarks/results/recipes/<name>.json: every metric by step, the words, the machine.
Recipes that have their JSON are not run again without `--again`; the `Measured` line of every header
is written anew from the JSON. About 20 seconds a recipe on two cores. So few steps show that a method runs
and moves its own numbers, not how good it is: that is benchmarks/methods.py.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from time import monotonic

from judge_server import judging
from machine import about_this_machine

from agentrl.compose import compose, config_root, group_names, read_yaml
from agentrl.errors import AgentRLError
from agentrl.train.run import train

RESULTS = Path(__file__).parent / "results" / "recipes"
ENDS = 5
"""Steps at either end that are averaged."""
USUAL = ("entropy", "length")
WATCHED: Mapping[str, tuple[str, ...]] = {
    "ppo": ("critic/loss", "critic/explained_variance"),
    "grpo": ("kl_ref",),
    "dr_grpo": ("length", "grad_norm"),
    "rloo": ("reward_kl/kl", "grad_norm"),
    "reinforce_pp": ("reward_kl/kl", "advantage_abs_mean"),
    "lite_ppo": ("clip_high_share", "advantage_abs_mean"),
    "dapo": ("rounds", "groups", "zero_advantage_rows", "clip_high_share"),
    "gspo": ("clip_high_share", "clip_low_share"),
    "cispo": ("clip_high_share", "entropy"),
    "gppo": ("clip_high_share", "entropy"),
    "ppo_shared": ("critic/loss", "critic/explained_variance"),
    "orz": ("critic/loss", "critic/explained_variance"),
    "reinforce_pp_baseline": ("kl_ref", "advantage_abs_mean"),
    "opo": ("advantage_abs_mean", "length"),
    "pass_at_k": ("zero_advantage_rows", "advantage_abs_mean"),
    "gdpo": ("calls", "reward/tool_use"),
    "klear": ("positives_loss", "clip_high_share"),
    "oreal": ("kl_ref", "positive_share"),
    "prorl": ("eval/accuracy", "kl_ref", "groups"),
    "t1": ("kl_ref", "entropy"),
    "recap": ("positives_loss", "loss/sft_positives"),
    "kdrl": ("teacher_kl", "distill_coef"),
    "redi": ("redi_loss", "redi_better"),
    "dpo": ("dpo_loss", "entropy"),
    "echo": ("echo_loss", "calls"),
    "tea": ("tea_entropy", "entropy"),
    "relift": ("diverted/sft", "demos/loss", "groups"),
    "entropy_floor": ("entropy", "entropy_coef"),
    "adaptive_entropy": ("entropy", "entropy_control"),
    "ssb": ("replayed", "stale_share", "zero_advantage_rows"),
    "tis": ("stale_share", "weight_mean", "ess"),
    "icepop": ("stale_share", "weight_mean", "weight_clipped_share"),
    "rejection": ("stale_share", "rejected_sequence_share", "ess"),
    "mt_grpo": ("calls", "advantage_abs_mean"),
    "gigpo": ("calls", "advantage_abs_mean"),
    "otc_grpo": ("calls", "productivity"),
    "arpo": ("n_executed", "n_generated", "branches"),
    "arpo_hard": ("n_executed", "n_generated", "branches"),
    "arpo_code": ("n_executed", "n_generated", "branches"),
    "arpo_fixed": ("n_executed", "n_generated", "branches"),
    "aepo": ("n_executed", "branches", "clip_high_share", "entropy"),
    "acereason": ("truncated", "length"),
    "campo": ("truncated", "groups", "reward_std"),
    "capo": ("reward/capo/steps", "advantage_abs_mean"),
    "delethink": ("length", "rows", "truncated"),
    "deepsearch": ("calls", "reward/search/nodes", "reward/search/tokens"),
    "cort": ("call_errors", "reward_std"),
    "long_short": ("length", "reward/format", "reward/roles/exchanges"),
    "rlad": ("reward/abstraction", "reward/rlad/bare", "excluded"),
    "spc": ("excluded", "reward/spc/caught", "reward/spc/cleared"),
    "trimr": ("length", "reward/trimr/cuts"),
    "inspo": ("calls", "reward/inspo/instruction"),
    "demyagent": ("calls", "groups", "rounds"),
    "difficulty_filter": ("groups", "rounds", "zero_variance_groups"),
    "difficulty_staged": ("calls", "zero_variance_groups"),
    "dro": ("reward_std", "groups", "gate/no_signal"),
    "fastcurl": ("truncated", "length"),
    "hapo": ("length_correct", "reward_std"),
    "kimi_length": ("length_correct", "length_wrong"),
    "laser": ("length_correct", "reward_std"),
    "laser_d": ("length_correct", "reward_std"),
    "laser_de": ("length_correct", "length_wrong"),
    "length_stages": ("truncated", "length"),
    "light_r1": ("length_correct", "zero_variance_groups"),
    "noise": ("critic/explained_variance", "calls"),
    "one_shot": ("zero_variance_groups", "entropy"),
    "orz_hard": ("lr", "calls"),
    "otc_ppo": ("calls", "productivity"),
    "overlong_filter": ("truncated", "masked_rows"),
    "p_grpo": ("reward/process/tools", "reward/format"),
    "pc_grpo": ("advantage_abs_mean", "zero_advantage_rows"),
    "retool_turns": ("calls", "turns"),
    "rlmt": ("reward/judge/answer", "reward/judge/answer/failed"),
    "rlpr": ("reward/rlpr/prob", "groups", "gate/std_low"),
    "rlpr_filter": ("reward_std", "groups", "gate/std_low"),
    "rlsp": ("length", "calls"),
    "rulereasoner": ("calls", "zero_variance_groups"),
    "ruscarl": ("length", "zero_variance_groups"),
    "simpletir": ("masked_rows", "groups", "gate/std_low"),
    "temperature": ("entropy", "zero_variance_groups"),
    "trust_grpo": ("reward/process/tools", "reward_std", "calls"),
    "ttrl": ("reward/vote/share", "reward/vote/label", "reward_std", "entropy"),
    "adaptthink": ("calls", "length_correct"),
    "rex_rag": ("n_sequences", "reward/rex/reopened", "reward/rex/over"),
    "cure": ("entropy", "zero_variance_groups"),
    "guide": ("zero_variance_groups", "n_sequences", "reward/guide/hinted"),
    "rgr_grpo": ("shaped_share", "length"),
    "cog_rethinker": ("sft_loss", "n_sequences"),
    "cort_hints": ("calls", "reward/hints/placed"),
    "luffy": ("shaped_share", "calls"),
    "search_r1": ("calls", "kl_ref"),
    "reseek": ("calls", "rows", "length"),
}
"""Recipe -> the metrics that its own part of the step moves; `USUAL` for the others."""
LONGER: Mapping[str, int] = {}
"""Recipes whose schedule needs more steps to do anything."""


def recipe_file(name: str) -> Path:
    """Where a recipe is."""
    return config_root() / "recipe" / f"{name}.yaml"


def nano_words(name: str) -> list[str] | None:
    """What its header says to type after `agentrl train`; None for a recipe that is no method."""
    lines = recipe_file(name).read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line.startswith("# Nano: agentrl train "):
            return shlex.split(line.removeprefix("# Nano: agentrl train ").partition(";")[0])
    return None


def one_run(name: str, words: Sequence[str], options: argparse.Namespace) -> dict[str, object]:
    """Train and give the metrics by step."""
    steps = options.steps or LONGER.get(name, 10)
    own = [f"train.steps={steps}", f"train.tasks_per_step={options.tasks}", "seed=0"]
    if "eval" not in read_yaml(recipe_file(name)):
        own.append("eval.every=0")
    words = [*words, *own]
    started = monotonic()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        config = compose([*words, f"dir={folder}"])
        with judging(config):
            train(config, sinks=(), command="benchmark")
        lines = (folder / "metrics.jsonl").read_text().splitlines()
    told = [json.loads(line).items() for line in lines]
    by_step = [{k: _short(v) for k, v in line if v is not None} for line in told]
    return {
        "words": words,
        "tasks": options.tasks,
        "measured": "",
        "seconds": round(monotonic() - started, 1),
        "machine": about_this_machine(),
        "by_step": by_step,
    }


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def measured(name: str, by_step: Sequence[Mapping[str, float]], tasks: int) -> str:
    """The line for the header."""
    watched = WATCHED.get(name, USUAL)
    found = [_ends("accuracy", by_step), *(_ends(metric, by_step) for metric in watched)]
    return f"{len(by_step)} steps of {tasks} tasks, seed 0, first {ENDS} -> last {ENDS} steps: " + (
        ", ".join(found) + "."
    )


def _ends(metric: str, by_step: Sequence[Mapping[str, float]]) -> str:
    """First and last steps' means; steps without the metric do not count."""
    values = [line[metric] for line in by_step if metric in line]
    if not values:
        return f"{metric} never reported"
    first, last = fmean(values[:ENDS]), fmean(values[-ENDS:])
    return f"{metric} {first:.3g} -> {last:.3g}"


def write_header(name: str, text: str) -> None:
    """Put the line in place of the header's old one."""
    path = recipe_file(name)
    lines = path.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("# Measured:"))
    end = next(i for i in range(start + 1, len(lines)) if not lines[i].startswith("#   "))
    wrapped = textwrap.wrap(
        f"Measured: {text}", 102, subsequent_indent="  ", break_on_hyphens=False
    )
    lines[start:end] = [f"# {line}" for line in wrapped]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> int:
    """Run what has no result yet; exit 1 when a recipe fails."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", default="", help="recipes, separated by commas; default: all")
    parser.add_argument("--steps", type=int, default=0, help="default: 10, or what a recipe needs")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--again", action="store_true", help="run also what has its JSON")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in options.only.split(",") if options.only else group_names("recipe"):
        words = nano_words(name)
        path = RESULTS / f"{name}.json"
        if words is None:
            continue
        if options.again or not path.is_file():
            try:
                path.write_text(json.dumps(one_run(name, words, options)) + "\n")
            except (AgentRLError, ExceptionGroup) as error:
                print(f"FAIL {name}: {error}", flush=True)
                failed += 1
                continue
        stored = json.loads(path.read_text())
        text = measured(name, stored["by_step"], stored.get("tasks", options.tasks))
        path.write_text(json.dumps(stored | {"measured": text}) + "\n")
        write_header(name, text)
        print(f"ok   {name}: {text}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
