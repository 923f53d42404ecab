"""`agentrl serve retriever`: a search index over HTTP."""

from __future__ import annotations

import click


@click.command("retriever")
@click.argument("words", nargs=-1, metavar="[CORPUS] [KEY=VALUE]...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, help="0 takes a free one.")
@click.option("--topk", default=3, show_default=True, help="Hits when a request does not say.")
@click.option(
    "--allow-no-token",
    is_flag=True,
    help="Listen beyond this machine without a token; Search-R1's clients send none.",
)
def command(words: tuple[str, ...], host: str, port: int, topk: int, allow_no_token: bool) -> None:
    """Serve a search index as Search-R1's retrieval server does (POST /retrieve).

    CORPUS is a .jsonl file or an index made by `agentrl data index`; `retriever=` chooses how it is
    searched (fts5), further words are that retriever's options. Clients must send the token in
    $AGENTRL_RETRIEVER_TOKEN, if it is set, as `Authorization: Bearer`. Ctrl-C ends it.

    \b
    agentrl serve retriever corpus.jsonl
    agentrl serve retriever wiki.tantivy retriever=tantivy --port 8001
    """
    from agentrl.cli.retriever_words import read_retriever
    from agentrl.serve.retriever import serve

    serve(
        read_retriever(words),
        host=host,
        port=port,
        topk=topk,
        allow_no_token=allow_no_token,
        announce=click.echo,
    )
