"""`agentrl sandbox serve`: this machine's sandbox for others."""

from __future__ import annotations

import click

from agentrl.cli.words import words_argument


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, help="0 takes a free one.")
@click.option(
    "--allow-no-token",
    is_flag=True,
    help="Listen beyond this machine without a token; SandboxFusion's clients send none.",
)
@click.option("--max-body-mb", default=32, show_default=True, help="Largest request.")
@words_argument
def command(
    host: str, port: int, allow_no_token: bool, max_body_mb: int, words: tuple[str, ...]
) -> None:
    """Serve the sandbox over HTTP, for `sandbox=remote` and for SandboxFusion's clients.

    Clients must send the token in $AGENTRL_SANDBOX_TOKEN, if it is set, as `Authorization: Bearer`.
    Ctrl-C ends it.

    \b
    agentrl sandbox serve --port 8080 sandbox.max_sessions=128
    """
    from agentrl.compose import compose
    from agentrl.serve.sandbox_server import serve

    serve(
        compose(words).sandbox,
        host=host,
        port=port,
        allow_no_token=allow_no_token,
        max_body_mb=max_body_mb,
        announce=click.echo,
    )
