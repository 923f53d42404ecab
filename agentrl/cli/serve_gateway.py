"""`agentrl serve env=... model=...`: the OpenAI-compatible gateway."""

from __future__ import annotations

import shlex
from typing import Literal

import click

from agentrl.cli.words import refuse_windows, words_argument


@click.command("gateway")
@click.option(
    "--mode",
    type=click.Choice(["agent", "record"]),
    default="agent",
    show_default=True,
    help="`agent` runs the environment's tools here; `record` lets the client be the agent.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, help="0 takes a free one.")
@click.option(
    "--allow-no-token",
    is_flag=True,
    help="Listen beyond this machine without a token.",
)
@click.option("--max-body-mb", default=32, show_default=True, help="Largest request.")
@click.option(
    "--sampling",
    type=click.Choice(["run", "request"]),
    default="run",
    show_default=True,
    help="Whose temperature recorded sessions use.",
)
@words_argument
def command(
    mode: Literal["agent", "record"],
    host: str,
    port: int,
    allow_no_token: bool,
    max_body_mb: int,
    sampling: Literal["run", "request"],
    words: tuple[str, ...],
) -> None:
    """Serve an agent to OpenAI's clients, or record their conversations for training.

    Beyond this machine clients must send the secret in $AGENTRL_GATEWAY_TOKEN as API key. Ctrl-C
    ends it.

    \b
    agentrl serve env=retool_math                    the embedded model and its sandbox
    agentrl serve model=runs/NAME                    a trained run as it is
    agentrl serve env=retool_math --mode record      somebody else's agent, recorded
    """
    refuse_windows()
    from agentrl.compose import compose
    from agentrl.serve.gateway.run import Settings, serve

    config = compose(words)
    settings = Settings(
        mode=mode,
        host=host,
        port=port,
        allow_no_token=allow_no_token,
        max_body_mb=max_body_mb,
        sampling=sampling,
    )
    line = shlex.join(["agentrl", "serve", "--mode", mode, *words])
    serve(config, settings, command=line, announce=click.echo)
