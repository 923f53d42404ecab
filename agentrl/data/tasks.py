"""Tasks from files and from the Hugging Face hub."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from agentrl.data.layouts import Problem, Unanswered, detect, layout_named
from agentrl.data.rows import SUFFIXES, Row, read_rows
from agentrl.errors import SetupError, UserError
from agentrl.types import JsonValue, Task

Unanswerable: TypeAlias = Literal["refuse", "drop"]
"""What to do with a row that has no gold answer."""

_log = logging.getLogger(__name__)


def load_tasks(
    path: str,
    *,
    layout: str | None = None,
    limit: int | None = None,
    unanswered: Unanswerable = "refuse",
) -> list[Task]:
    """The tasks of a jsonl or parquet file, in its order.

    Ids are `stem/index-hash`: the row's index and a hash of its question and answer, so they change
    when the content does.

    Args:
        path: the file.
        layout: how rows are read (`agentrl.data.layouts.LAYOUTS`); None detects it.
        limit: reads only the first so many rows.
        unanswered: `drop` leaves out rows without a gold answer and logs how many.

    Raises UserError that names the file, the line and what is wrong.
    """
    name = Path(path).name
    stem = next((name.removesuffix(s) for s in SUFFIXES if name.endswith(s)), name)
    return _tasks(read_rows(path), stem, layout, limit, unanswered)


def load_hub_tasks(
    dataset: str,
    *,
    layout: str | None = None,
    limit: int | None = None,
    unanswered: Unanswerable = "refuse",
) -> list[Task]:
    """The tasks of a hub data set: `name`, `name:split` or `name:config:split`.

    The split is `train` unless named; the other arguments are those of `load_tasks`. Raises
    SetupError when the `datasets` package is missing, UserError on an unknown data set.
    """
    name, *rest = dataset.split(":")
    if not name or len(rest) > 2:
        raise UserError(f"data.hf={dataset}: write name, name:split or name:config:split")
    config, split = (rest[0] if len(rest) == 2 else None), (rest[-1] if rest else "train")
    rows = _hub_rows(dataset, name, config, split)
    return _tasks(rows, name.rstrip("/").rpartition("/")[2], layout, limit, unanswered)


def _hub_rows(dataset: str, name: str, config: str | None, split: str) -> Iterator[Row]:
    try:
        hub: Any = import_module("datasets")
    except ImportError as error:
        raise SetupError(
            "data.hf needs the datasets package: pip install 'agentrl-framework[data]'"
        ) from error
    try:
        records = hub.load_dataset(name, config, split=split)
    except (OSError, ValueError, RuntimeError, hub.exceptions.DatasetsError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(f"data.hf={dataset} cannot be loaded: {first}") from error
    for number, values in enumerate(cast(Iterable[Mapping[str, JsonValue]], records), 1):
        yield Row(dict(values), f"{dataset}:{number}")


def _tasks(
    rows: Iterator[Row], stem: str, layout: str | None, limit: int | None, unanswered: Unanswerable
) -> list[Task]:
    if limit is not None and limit < 1:
        raise UserError(f"data.limit must be at least 1, not {limit}")
    first = next(rows, None)
    if first is None:
        raise UserError(f"{stem} holds no rows; give one with at least one")
    chosen = layout_named(layout) if layout is not None else detect(first)
    tasks: list[Task] = []
    dropped: list[str] = []
    for index, row in enumerate(islice(chain((first,), rows), limit)):
        try:
            tasks.append(_task(chosen.read(row), stem, index))
        except Unanswered as error:
            if unanswered == "refuse":
                raise Unanswered(f"{error}, or set data.unanswered=drop") from None
            dropped.append(row.where)
    if dropped:
        _log.warning("left out %d rows without an answer, the first %s", len(dropped), dropped[0])
    if not tasks:
        raise UserError(f"no row of {stem} has an answer; give data with gold answers")
    return tasks


def _task(problem: Problem, stem: str, index: int) -> Task:
    content = f"{problem.question}\x1f{problem.answer}".encode()
    digest = blake2b(content, digest_size=4).hexdigest()
    return Task(
        id=f"{stem}/{index}-{digest}",
        question=problem.question,
        answer=problem.answer,
        metadata=problem.metadata,
    )
