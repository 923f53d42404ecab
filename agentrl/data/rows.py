"""Reading rows from jsonl and parquet files, each with the place it stands at.

Every failure is a UserError that begins with `path:line` where a line is to blame.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any, cast

from agentrl.errors import UserError
from agentrl.types import JsonValue

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a file."""

    values: Mapping[str, JsonValue]
    where: str
    """`path:line`, lines (of parquet: rows) counted from 1."""


def read_rows(path: str | Path) -> Iterator[Row]:
    """All rows of a file, in order. Raises UserError on what cannot be read."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; data.path takes a jsonl or parquet file")
    if path.is_dir():
        raise UserError(f"{path} is a folder; data.path takes one jsonl or parquet file in it")
    if path.name.endswith(".parquet"):
        return _parquet_rows(path)
    if path.name.endswith(SUFFIXES):
        return _jsonl_rows(path)
    raise UserError(f"{path} has an unknown ending; data.path takes {', '.join(SUFFIXES)}")


def _jsonl_rows(path: Path) -> Iterator[Row]:
    found = False
    try:
        with _opened(path) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    found = True
                    yield Row(_record(line, f"{path}:{number}"), f"{path}:{number}")
    except OSError as error:
        # gzip reports a damaged archive as an OSError without strerror.
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except EOFError as error:
        raise UserError(f"{path} cannot be read: the archive is cut short") from error
    if not found:
        raise UserError(f"{path} holds no rows; write one JSON object per line")


def _opened(path: Path) -> IO[bytes]:
    if path.name.endswith(".gz"):
        return cast(IO[bytes], gzip.open(path, "rb"))
    return path.open("rb")


def _record(line: bytes, where: str) -> Mapping[str, JsonValue]:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: byte {error.start + 1} is not UTF-8; save as UTF-8") from error
    except json.JSONDecodeError as error:
        problem = f"{error.msg.lower()} at column {error.colno}"
        raise UserError(f"{where}: not JSON, {problem}; write one object per line") from error
    except RecursionError as error:
        raise UserError(f"{where}: JSON nested too deeply; write one flat object") from error
    if not isinstance(value, dict):
        kind = type(cast(object, value)).__name__
        raise UserError(f"{where}: expected a JSON object, got {kind}; write {{...}} on each line")
    return cast(Mapping[str, JsonValue], value)


def _parquet_rows(path: Path) -> Iterator[Row]:
    arrow: Any = import_module("pyarrow")  # untyped, and slow to import
    parquet: Any = import_module("pyarrow.parquet")
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for record in cast(list[dict[str, JsonValue]], batch.to_pylist()):
                    number += 1
                    yield Row(record, f"{path}:{number}")
    except (arrow.ArrowException, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(f"{path} is not a readable parquet file: {first}") from error
    if not number:
        raise UserError(f"{path} holds no rows; give a file with at least one")
