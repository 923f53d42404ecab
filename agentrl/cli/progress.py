"""The console's view of a run: a live table, plain lines, or JSON lines.

Each class is a sink of `agentrl.train.metrics.Sink`: `start`, `step` after every finished step
(numbered from 0, shown from 1), `note`, `close`. Metric names are looked up one by one, so a run
that lacks one shows `-` there.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import IO, NamedTuple, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text


class ConsoleSink(Protocol):
    """What the three views share; structurally a `Sink` of the training loop."""

    def start(self, total_steps: int, summary: Mapping[str, str]) -> None:
        """Called once, before the first step."""
        ...

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Called after step number `step`, counted from 0."""
        ...

    def note(self, text: str) -> None:
        """A sentence for the person watching."""
        ...

    def close(self) -> None:
        """Called once, at the end or after a failure."""
        ...


class FolderWatch:
    """A sink that only remembers where the run writes, for the last words of a command."""

    def __init__(self) -> None:
        self.folder: str | None = None

    def start(self, total_steps: int, summary: Mapping[str, str]) -> None:
        """Remember the folder."""
        self.folder = summary.get("folder")

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing to show."""

    def note(self, text: str) -> None:
        """Nothing to show."""

    def close(self) -> None:
        """Nothing to close."""

    @property
    def resumable(self) -> str | None:
        """The folder, once it holds a checkpoint to go on from."""
        latest = Path(self.folder or "", "checkpoints", "latest")
        return self.folder if self.folder is not None and latest.exists() else None


class Column(NamedTuple):
    """One metric as people read it."""

    title: str
    metric: str
    pattern: str


COLUMNS = (
    Column("reward", "reward", "{:.3f}"),
    Column("accuracy", "accuracy", "{:.3f}"),
    Column("calls", "calls", "{:.2f}"),
    Column("length", "length", "{:.0f}"),
    Column("entropy", "entropy", "{:.3f}"),
    Column("tokens/s", "tokens_per_s", "{:.0f}"),
    Column("gap", "gap_max", "{:.1e}"),
)
"""Reinforcement learning."""

SUPERVISED = (
    Column("loss", "loss", "{:.4f}"),
    Column("entropy", "entropy", "{:.3f}"),
    Column("grad norm", "grad_norm", "{:.3f}"),
    Column("lr", "lr", "{:.2e}"),
    Column("tokens", "n_tokens", "{:.0f}"),
)
"""Supervised training, which has no reward."""

RAMP = "▁▂▃▄▅▆▇█"
ASCII_RAMP = "_.-=+*#@"


def sparkline(values: list[float], *, width: int = 60, ramp: str = RAMP) -> str:
    """Values in [0, 1] as one character each; longer histories are averaged down to `width`."""
    n = len(values)
    cells = min(width, n)
    means: list[float] = []
    for i in range(cells):
        part = values[i * n // cells : (i + 1) * n // cells]
        means.append(sum(part) / len(part))
    top = len(ramp) - 1
    return "".join(ramp[min(top, max(0, int(v * len(ramp))))] for v in means)


def clock(seconds: float | None) -> str:
    """`m:ss` or `h:mm:ss`; `-` when unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def shown(column: Column, metrics: Mapping[str, float]) -> str:
    """One metric, formatted; `-` when it is missing or not a number."""
    value = metrics.get(column.metric)
    return "-" if value is None or not math.isfinite(value) else column.pattern.format(value)


def columns_of(metrics: Mapping[str, float]) -> tuple[Column, ...]:
    """The columns that fit what a run reports."""
    return COLUMNS if "reward" in metrics else SUPERVISED


class Pace:
    """Time left, from when the last steps were reported; not every step need be."""

    def __init__(self, total_steps: int = 0, *, now: Callable[[], float] = monotonic) -> None:
        self.total_steps = total_steps
        self._now = now
        self._seen: deque[tuple[int, float]] = deque(maxlen=20)

    def eta_s(self, step: int, metrics: Mapping[str, float]) -> float | None:
        """Seconds until the last step; the first report has only its own `time_s` to go by."""
        self._seen.append((step, self._now()))
        (first, began), (last, ended) = self._seen[0], self._seen[-1]
        each_s = (ended - began) / (last - first) if last > first else metrics.get("time_s")
        return None if each_s is None else each_s * max(0, self.total_steps - step - 1)


class PlainProgress:
    """One line per step, for logs and pipes."""

    def __init__(
        self, stream: IO[str] | None = None, *, now: Callable[[], float] = monotonic
    ) -> None:
        self._stream = stream or sys.stdout
        self._now = now
        self._pace = Pace()

    def start(self, total_steps: int, summary: Mapping[str, str]) -> None:
        """Print the summary on one line."""
        self._pace = Pace(total_steps, now=self._now)
        self.note("  ".join(f"{key}={value}" for key, value in summary.items()))

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print one step."""
        parts = [
            f"{c.title} {shown(c, metrics)}" for c in columns_of(metrics) if c.metric in metrics
        ]
        eta = clock(self._pace.eta_s(step, metrics))
        total = self._pace.total_steps
        self.note("  ".join([f"step {step + 1}/{total}", *parts, f"eta {eta}"]))

    def note(self, text: str) -> None:
        """Print a line."""
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing is held back."""


class JsonProgress:
    """One JSON object per line; numbers that are not finite become null."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stdout

    def start(self, total_steps: int, summary: Mapping[str, str]) -> None:
        """`{"event": "start", "total_steps": ..., "config": {...}}`."""
        self._write({"event": "start", "total_steps": total_steps, "config": dict(summary)})

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """`{"event": "step", "step": ..., "metrics": {...}}`."""
        finite = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        self._write({"event": "step", "step": step, "metrics": finite})

    def note(self, text: str) -> None:
        """`{"event": "note", "text": ...}`."""
        self._write({"event": "note", "text": text})

    def close(self) -> None:
        """`{"event": "end"}`."""
        self._write({"event": "end"})

    def _write(self, event: Mapping[str, object]) -> None:
        print(json.dumps(event), file=self._stream, flush=True)


class RichProgress:
    """A table of the last steps that redraws in place, with a sparkline of accuracy below."""

    def __init__(
        self,
        console: Console | None = None,
        *,
        rows: int = 12,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._console = console or Console()
        self._now = now
        self._rows: deque[tuple[int, Mapping[str, float]]] = deque(maxlen=rows)
        self._accuracy: list[float] = []
        self._pace = Pace()
        self._eta_s: float | None = None
        self._live: Live | None = None

    def start(self, total_steps: int, summary: Mapping[str, str]) -> None:
        """Print the summary and open the live table."""
        self._pace = Pace(total_steps, now=self._now)
        for key, value in summary.items():
            self._console.print(Text.assemble((f"{key:>10}  ", "dim"), value))
        self._live = Live(self._picture(), console=self._console, auto_refresh=False)
        self._live.start(refresh=True)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a row and redraw."""
        self._rows.append((step, metrics))
        self._eta_s = self._pace.eta_s(step, metrics)
        accuracy = metrics.get("accuracy")
        if accuracy is not None and math.isfinite(accuracy):
            self._accuracy.append(accuracy)
        if self._live is not None:
            self._live.update(self._picture(), refresh=True)

    def note(self, text: str) -> None:
        """Print a line above the table."""
        self._console.print(Text(text))

    def close(self) -> None:
        """Leave the last picture on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _picture(self) -> RenderableType:
        if not self._rows:
            return Text(f"step 1 of {self._pace.total_steps} is running", "dim")
        columns = columns_of(self._rows[-1][1])
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("step", *(column.title for column in columns)):
            table.add_column(title, justify="right", no_wrap=True)
        for step, metrics in self._rows:
            cells = [shown(column, metrics) for column in columns]
            table.add_row(f"{step + 1}/{self._pace.total_steps}", *cells)
        return Group(table, self._footer())

    def _footer(self) -> Text:
        left = ("eta ", "dim"), clock(self._eta_s)
        if not self._accuracy:
            return Text.assemble(*left)
        ramp = ASCII_RAMP if self._console.options.ascii_only else RAMP
        width = max(10, min(60, self._console.width - 40))
        line = sparkline(self._accuracy, width=width, ramp=ramp)
        now = f" {self._accuracy[-1]:.3f}  "
        return Text.assemble(("accuracy ", "dim"), (line, "green"), now, *left)


def console_sink(*, as_json: bool, live: bool = True) -> ConsoleSink:
    """The view that fits: `--json`, a terminal, or neither (a pipe, `CI=true`, a dumb terminal).

    `live=False` is for commands without steps to tabulate.
    """
    if as_json:
        return JsonProgress()
    ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    if not live or ci or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty():
        return PlainProgress()
    return RichProgress()
