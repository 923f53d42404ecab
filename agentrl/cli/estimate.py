"""`agentrl estimate`: what a run would need, before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from agentrl.cli.words import json_option, words_argument

if TYPE_CHECKING:
    from agentrl.train.estimate import Estimate, Plan


@click.command("estimate")
@words_argument
@json_option
def command(words: tuple[str, ...], as_json: bool) -> None:
    """Predict memory and step time of a run.

    Takes the words of `agentrl train`, and gpus=, device=H200|H100|A100|L40S|CPU, sharding=,
    tensor_parallel=, placement=colocated|asleep|apart, rollout_gpus=, prompt_tokens=,
    sampled_tokens=, observed_tokens=, calls=, tool_s=, memory_gb=. Nothing is loaded or downloaded.
    Exit code 4 when it does not fit.

    \b
    agentrl estimate model=Qwen2.5-1.5B model.dtype=bfloat16
    agentrl estimate model=Qwen2.5-7B gpus=8 model.dtype=bfloat16 sharding=fsdp2
    """
    from agentrl.train.estimate import estimate, mend, plan_of, simulator_words

    plan = plan_of(words)
    found = estimate(plan)
    remedy = mend(plan) if found.misfits else ()
    if as_json:
        simulator = " ".join(simulator_words(found))
        click.echo(json.dumps({**to_json(found, remedy), "simulator": simulator}))
    else:
        _print(found, remedy)
    if found.misfits:
        raise click.exceptions.Exit(4)


def _print(found: Estimate, remedy: Sequence[str]) -> None:
    plan = found.plan
    click.echo(headline(plan, found.n_parameters))
    together = plan.placement == "colocated"
    _section(f"a learner GPU ({plan.learner_gpus})", found.learner.parts(), found.learner.total)
    _section(
        f"an engine GPU ({plan.replicas} x {plan.tensor_parallel}, {plan.rows_per_engine} rows each)",
        found.engine.parts(),
        found.engine.total,
    )
    room = plan.device.memory
    for who, needed in {
        "learner and engine" if together else "learner": found.learner_gpu,
        "engine": found.engine_gpu,
    }.items():
        if together and who == "engine":
            continue
        share = needed / room
        click.echo(f"{who}: {_gb(needed)} of {_gb(room)} with what the driver takes ({share:.0%})")
    _times(found)
    _verdict(found, remedy)


def _times(found: Estimate) -> None:
    plan, time = found.plan, found.time
    click.echo(f"\na step of {plan.work.rows} rows x {plan.work.row_tokens:,} tokens")
    for name, seconds in time.parts().items():
        click.echo(f"{seconds:>10.2f} s  {name}")
    rate = found.load.sampled_tokens / time.total
    click.echo(
        f"{time.total:>10.2f} s  in all{' (overlapped)' if time.overlapped else ''}: "
        f"{rate:,.0f} sampled tokens/s, model FLOPs utilisation while learning {found.mfu:.0%}"
    )


def _verdict(found: Estimate, remedy: Sequence[str]) -> None:
    from agentrl.train.estimate import simulator_words

    if not found.misfits:
        click.echo(f"\nrows that differ, one engine: {' '.join(simulator_words(found))}")
        click.echo("it fits; a prediction, see docs/scaling.md for what was measured")
        return
    click.echo("")
    for sentence in found.misfits:
        click.echo(f"does not fit: {sentence}")
    if remedy:
        click.echo(f"would fit with: {' '.join(remedy)}")
    else:
        click.echo(
            "nothing tried here makes it fit: shorten env.max_tokens or take a smaller model"
        )


def headline(plan: Plan, n_parameters: int) -> str:
    """What is estimated, on one line."""
    sharded = "" if plan.sharding == "none" else f", {plan.sharding}"
    return (
        f"{plan.model}: {_count(n_parameters)} parameters in {plan.dtype} on {plan.gpus} x "
        f"{plan.device.name}{sharded}, {plan.placement}"
    )


def _count(n: int) -> str:
    return f"{n / 1e9:.2f} billion" if n >= 1e8 else f"{n / 1e6:.2f} million"


def _section(title: str, parts: Mapping[str, float], total: float) -> None:
    click.echo(f"\n{title}")
    for name, held in parts.items():
        if held:
            click.echo(f"{_gb(held):>12}  {name.replace('_', ' ')}")
    click.echo(f"{_gb(total):>12}  in all")


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"


def to_json(found: Estimate, remedy: Sequence[str]) -> Mapping[str, object]:
    """The estimate as one object; bytes and seconds."""
    plan = found.plan
    return {
        "event": "estimate",
        "model": plan.model,
        "parameters": found.n_parameters,
        "device": plan.device.name,
        "gpus": plan.gpus,
        "sharding": plan.sharding,
        "tensor_parallel": plan.tensor_parallel,
        "placement": plan.placement,
        "learner_bytes": dict(found.learner.parts()),
        "engine_bytes": dict(found.engine.parts()),
        "learner_gpu_bytes": found.learner_gpu,
        "engine_gpu_bytes": found.engine_gpu,
        "device_bytes": plan.device.memory,
        "fits": not found.misfits,
        "does_not_fit": list(found.misfits),
        "would_fit_with": list(remedy),
        "step_s": found.time.total,
        "step_parts_s": dict(found.time.parts()),
        "sampled_tokens_per_s": found.load.sampled_tokens / found.time.total,
        "mfu": found.mfu,
    }
