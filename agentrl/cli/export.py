"""`agentrl export`: a checkpoint as a plain Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from agentrl.cli.words import json_option

if TYPE_CHECKING:
    from agentrl.train.export import Dtype

DTYPES = ("float32", "bfloat16", "float16")


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN_FOLDER")
@click.argument("target", type=click.Path(path_type=Path), metavar="TARGET_FOLDER")
@click.option("--latest", is_flag=True, help="The latest checkpoint instead of the best one.")
@click.option(
    "--dtype", type=click.Choice(DTYPES), default="float32", show_default=True,
    help="Type of the weights; training keeps them in float32.",
)  # fmt: skip
@json_option
def command(run: Path, target: Path, latest: bool, dtype: str, as_json: bool) -> None:
    """Write a run's checkpoint as a Hugging Face folder.

    The best checkpoint by evaluation, or the latest where none was evaluated: safetensors, config,
    tokenizer, generation config and a model card. The folder appears whole or not at all.

    \b
    agentrl export runs/NAME exported/NAME
    agentrl export runs/NAME exported/NAME --latest --dtype bfloat16
    """
    from agentrl.train.export import export

    made = export(run, target, latest=latest, dtype=cast("Dtype", dtype))
    if as_json:
        click.echo(
            json.dumps(
                {
                    "event": "exported",
                    "folder": str(made.target),
                    "checkpoint": made.checkpoint.name,
                    "step": made.step,
                    "best": made.is_best,
                    "dtype": made.dtype,
                    "parameters": made.n_parameters,
                    "bytes": made.n_bytes,
                }
            )
        )
        return
    kept = "best" if made.is_best else "latest"
    click.echo(
        f"{made.target}: the {kept} checkpoint, step {made.step}, {made.n_parameters:,} parameters in "
        f"{made.dtype}, {made.n_bytes / 2**20:.1f} MB"
    )
