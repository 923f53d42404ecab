"""`agentrl bench rollout`: what the scheduler costs, and how fair it is, without a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentrl.cli.words import json_option

if TYPE_CHECKING:
    from agentrl.testing.rollout_bench import Level

LEVELS = (64, 4096)
LEAST_EPISODES = 1024
"""Of a level with few at a time, so that its cost per episode can be measured."""

HEAD = (
    f"{'at once':>8} {'episodes':>8} {'CPU ms each':>11} {'x first':>7} {'RSS kB':>7} "
    f"{'time s':>8} {'tok/s':>7} {'busy':>5} {'set back':>8} {'slower':>7} {'worst':>7} {'Jain':>5}"
)


@click.command("rollout")
@click.option("--concurrent", "-c", multiple=True, type=click.IntRange(1, 1 << 20),
              help="Episodes at once; may be repeated. Default: 64 and 4096.")  # fmt: skip
@click.option("--episodes", type=click.IntRange(8),
              help="Of each level. Default: as many as run at once, at least 1024.")  # fmt: skip
@click.option("--calls", default=3, show_default=True, help="Tool calls of an episode.")
@click.option("--turn-tokens", default=128.0, show_default=True, help="Mean length of a turn.")
@click.option("--turn-sigma", default=0.5, show_default=True,
              help="Spread of turns: sigma of a log-normal; 0 makes all equal.")  # fmt: skip
@click.option("--tool-s", default=0.5, show_default=True, help="Mean seconds of a tool call.")
@click.option("--tool-sigma", default=1.0, show_default=True, help="Spread of tool calls.")
@click.option("--tool-slots", type=click.IntRange(1), help="Tool calls at once. Default: no bound.")
@click.option("--faults", default=0.0, show_default=True,
              help="Share of tool calls that the world fails; they are retried.")  # fmt: skip
@click.option("--step-ms", default=8.0, show_default=True, help="One step of the engine, ...")
@click.option("--row-ms", default=0.05, show_default=True, help="... and each row it computes.")
@click.option("--prefill-ms", default=20.0, show_default=True, help="1,000 prompt tokens.")
@click.option("--max-batch", default=256, show_default=True, help="Rows of one step.")
@click.option("--kv-tokens", default=1 << 20, show_default=True, help="Size of the engine's cache.")
@click.option(
    "--fixed", is_flag=True, help="Give the engine everything, however full its cache is."
)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write the numbers to this file.")
@json_option
def command(
    concurrent: tuple[int, ...],
    episodes: int | None,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Play the real rollout loop over a simulated engine and simulated tools.

    Time is virtual: what is waited for costs nothing, what the loop computes is measured. The engine
    takes `step-ms + row-ms x batch` a step and sets requests back when its cache is full.

    \b
    CPU ms each   what one episode costs this process, and how much more than at the first level
    RSS kB        growth of resident memory for each episode in flight
    time, tok/s   virtual; busy: share of it in which the engine computed
    set back      requests whose keys and values were computed twice
    slower        an episode's time against alone, median and worst; Jain: 1 is perfectly fair

    \b
    agentrl bench rollout
    agentrl bench rollout -c 65536 --kv-tokens 100000 --fixed
    """
    from agentrl.testing.rollout_bench import GROUP, study

    load = _load(options)
    found: list[Level] = []
    if not as_json:
        click.echo(HEAD)
    for level in concurrent or LEVELS:
        n = episodes or max(LEAST_EPISODES, level)
        found.append(study(load, level, -(-n // GROUP) * GROUP, _progress(level, n)))
        if not as_json:
            click.echo(row(found[-1], found[0]))
    told = {"schema_version": 1, "load": asdict(load), "levels": [asdict(x) for x in found]}
    if out is not None:
        out.write_text(json.dumps(told, indent=1) + "\n")
    if as_json:
        click.echo(json.dumps(told))


def _load(options: dict[str, Any]) -> Any:
    from agentrl.engine.simulated import Latency
    from agentrl.testing.rollout_bench import Lengths, Load

    latency = Latency(
        options["step_ms"], options["row_ms"], options["prefill_ms"], options["max_batch"],
        options["kv_tokens"],
    )  # fmt: skip
    return Load(
        latency=latency,
        calls=options["calls"],
        turn_tokens=Lengths(options["turn_tokens"], options["turn_sigma"]),
        tool_s=Lengths(options["tool_s"], options["tool_sigma"]),
        tool_slots=options["tool_slots"],
        fault_rate=options["faults"],
        adaptive=not options["fixed"],
        seed=options["seed"],
    )


def _progress(level: int, n: int) -> Callable[[int], None]:
    """A line on a terminal that is overwritten as episodes arrive; nothing elsewhere."""
    if not sys.stderr.isatty():
        return lambda done: None
    every = max(1, n // 100)

    def arrived(done: int) -> None:
        if done // every != (done - 8) // every or done >= n:
            end = "\r\x1b[K" if done >= n else ""
            click.echo(f"\r{level} at once: {done}/{n} episodes{end}", err=True, nl=False)

    return arrived


def row(level: Level, first: Level) -> str:
    """One level as people read it."""
    ratio = level.cpu_ms_per_episode / first.cpu_ms_per_episode
    rss = "-" if level.rss_kb_per_episode is None else f"{level.rss_kb_per_episode:.0f}"
    text = (
        f"{level.concurrent:8} {level.episodes:8} {level.cpu_ms_per_episode:11.2f} {ratio:7.2f} "
        f"{rss:>7} {level.wall_s:8.1f} {level.tokens_per_s:7.0f} {level.engine_busy:5.2f} "
        f"{level.preemptions:8} {level.slowdown:7.2f} {level.worst_slowdown:7.2f} {level.jain:5.2f}"
    )
    return text + (f"  {level.failed} failed" if level.failed else "")
