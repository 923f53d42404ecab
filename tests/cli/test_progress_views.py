"""The three views of a run, by what they print."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable

import pytest
from rich.console import Console

from agentrl.cli.progress import (
    FolderWatch,
    JsonProgress,
    PlainProgress,
    RichProgress,
    clock,
    console_sink,
    sparkline,
)

STEP = {
    "reward": 0.5,
    "accuracy": 0.625,
    "calls": 1.25,
    "length": 41.4,
    "entropy": 0.3333,
    "tokens_per_s": 1234.5,
    "gap_max": 3.21e-6,
    "time_s": 2.0,
}


def ticks(*times: float) -> Callable[[], float]:
    return iter(times).__next__


def test_plain_lines():
    out = io.StringIO()
    view = PlainProgress(out, now=ticks(10.0, 13.0, 15.0))
    view.start(3, {"env": "retool_math", "model": "nano"})
    view.step(0, STEP)
    view.step(1, {"reward": 0.25, "time_s": 3.0})
    view.step(2, {"reward": math.nan, "time_s": 4.0})
    view.note("checkpoint written")
    view.close()
    assert out.getvalue().splitlines() == [
        "env=retool_math  model=nano",
        "step 1/3  reward 0.500  accuracy 0.625  calls 1.25  length 41  entropy 0.333  "
        "tokens/s 1234  gap 3.2e-06  eta 0:04",
        "step 2/3  reward 0.250  eta 0:03",
        "step 3/3  reward -  eta 0:00",
        "checkpoint written",
    ]


def test_supervised_training_shows_its_loss():
    out = io.StringIO()
    view = PlainProgress(out, now=ticks(0.0, 10.0))
    view.start(100, {"env": "retool_math"})
    for step in (0, 20):
        view.step(step, {"loss": 5.64663, "lr": 2.7e-5, "time_s": 99.0})
    assert out.getvalue().splitlines()[-1] == ("step 21/100  loss 5.6466  lr 2.70e-05  eta 0:40"), (
        "20 steps took 10 s, 79 are left"
    )


def test_json_lines_are_json():
    out = io.StringIO()
    view = JsonProgress(out)
    view.start(2, {"env": "retool_math"})
    view.step(0, {"reward": 0.5, "gap_max": math.nan})
    view.note("hello")
    view.close()
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        {"event": "start", "total_steps": 2, "config": {"env": "retool_math"}},
        {"event": "step", "step": 0, "metrics": {"reward": 0.5, "gap_max": None}},
        {"event": "note", "text": "hello"},
        {"event": "end"},
    ]


def watched(*, encoding: str = "utf-8") -> tuple[RichProgress, io.TextIOWrapper]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    now = ticks(*(2.0 * i for i in range(100)))
    console = Console(
        file=file, force_terminal=True, width=100, color_system=None, legacy_windows=False
    )
    return RichProgress(console, rows=2, now=now), file


def test_the_live_table():
    view, file = watched()
    view.start(80, {"env": "retool_math"})
    for step, accuracy in enumerate((0.0, 0.5, 1.0)):
        view.step(step, {**STEP, "accuracy": accuracy})
    view.note("a note")
    view.close()
    text = file.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert "retool_math" in text
    assert "step 1 of 80 is running" in text
    final = text[text.rindex("reward") :]
    assert "2/80" in final
    assert "3/80" in final
    assert "1/80" not in final, "only the last rows stay"
    assert "▁▅█ 1.000" in final
    assert "eta 2:34" in final, "77 steps of 2 s are left"
    assert "a note" in text


def test_missing_metrics_show_a_dash():
    view, file = watched()
    view.start(5, {})
    view.step(0, {"reward": 0.5})
    view.close()
    text = file.buffer.getvalue().decode()  # type: ignore[attr-defined]
    row = next(line for line in reversed(text.splitlines()) if "1/5" in line)
    assert row.split() == ["1/5", "0.500", "-", "-", "-", "-", "-", "-"]
    assert "eta -" in text


def test_an_ascii_terminal_gets_ascii():
    view, file = watched(encoding="ascii")
    view.start(5, {})
    view.step(0, STEP)
    view.close()
    assert file.buffer.getvalue().isascii()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([0.0, 0.124, 0.125, 0.5, 0.99, 1.0], "▁▁▂▅██"),
        ([-1.0, 2.0], "▁█"),
        ([0.0, 1.0] * 60, "▅" * 60),
    ],
)
def test_sparklines_by_hand(values: list[float], line: str):
    assert sparkline(values) == line


def test_a_sparkline_keeps_its_width():
    assert len(sparkline([0.5] * 137, width=40)) == 40


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (math.inf, "-"), (0.0, "0:00"), (59.6, "1:00"), (3725.0, "1:02:05")],
)
def test_clocks(seconds: float | None, text: str):
    assert clock(seconds) == text


def test_the_view_fits_the_place(monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("CI", raising=False)
    assert isinstance(console_sink(as_json=False), RichProgress)
    assert isinstance(console_sink(as_json=True), JsonProgress)
    monkeypatch.setenv("CI", "true")
    assert isinstance(console_sink(as_json=False), PlainProgress)
    monkeypatch.setenv("CI", "false")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert isinstance(console_sink(as_json=False), PlainProgress)


def test_the_watch_knows_when_a_run_can_go_on(tmp_path):
    watch = FolderWatch()
    assert watch.resumable is None
    watch.start(3, {"folder": str(tmp_path)})
    assert watch.resumable is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "latest").write_text("step_1")
    assert watch.resumable == str(tmp_path)
