"""`agentrl data index`: a corpus made searchable, once."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import click

from agentrl.cli.exits import FULL_DISK
from agentrl.errors import UserError


@click.command("index")
@click.argument("words", nargs=-1, required=True, metavar="CORPUS [KEY=VALUE]...")
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), help="CORPUS.<retriever> if not given."
)
@click.option("--overwrite", is_flag=True, help="Replace an index that is there.")
def command(words: tuple[str, ...], out: Path | None, overwrite: bool) -> None:
    """Build a search index of a corpus.

    CORPUS is a .jsonl file (.gz too) with one `{"id", "contents"}` or `{"id", "title", "text"}` a line.
    `retriever=` chooses whose index it becomes (fts5, bm25s, tantivy, dense); further words are its
    options. The index appears when it is complete, or not at all.

    \b
    agentrl data index corpus.jsonl
    agentrl data index corpus=wiki.jsonl.gz retriever=tantivy --out wiki.tantivy
    """
    from agentrl.cli.retriever_words import read_retriever
    from agentrl.config import Plugin
    from agentrl.plugins import options
    from agentrl.registry import resolve
    from agentrl.retrieval import IndexBuilder

    node = read_retriever(words)
    given = dict(node.given)
    corpus = Path(str(given.pop("corpus", ""))).expanduser()
    builder = resolve("retriever", node.name)
    if not isinstance(builder, IndexBuilder):
        raise UserError(f"the retriever {node.name!r} has no index to build; try retriever=fts5")
    chosen = options("retriever", Plugin.model_validate({"name": node.name, **given}))
    if not corpus.is_file():
        raise UserError(f"there is no file {corpus}; give a .jsonl corpus")
    index = out if out is not None else corpus.with_name(f"{corpus.name}.{node.name}")
    if index.exists() and not overwrite:
        raise UserError(f"{index} is there already; say --overwrite, or choose another --out")
    began = monotonic()
    with _bar(corpus) as told, _whole(index) as partial:
        count = builder.build_index(corpus, partial, told, **chosen)
    size_mb = _size(index) / 2**20
    click.echo(f"{count:,} passages -> {index} ({size_mb:.1f} MB) in {monotonic() - began:.1f} s")


@contextmanager
def _whole(index: Path) -> Generator[Path]:
    """A path beside the index that takes its place at the end; gone when the work fails."""
    partial = index.with_name(f".{index.name}.{os.getpid()}.partial")
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if index.is_dir() or (partial.is_dir() and index.exists()):
            _remove(index)
        os.replace(partial, index)
    except OSError as error:
        if error.errno in FULL_DISK:
            raise
        raise UserError(f"cannot write {index}: {error.strerror or error}") from error
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files)


@contextmanager
def _bar(corpus: Path) -> Generator[Callable[[int], None]]:
    """Hears how much of the corpus has been read; draws on a terminal only."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield _unheard
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), DownloadColumn()]
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        size = corpus.stat().st_size
        task = progress.add_task("reading", total=size)

        def told(position: int) -> None:
            what = "indexing" if position >= size else "reading"
            progress.update(task, completed=position, description=what)

        yield told


def _unheard(position: int) -> None:
    """Nobody watches."""
