"""A step's numbers from groups hand by hand, and lines that are whole or not there."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.errors import RunFailed
from agentrl.train.metrics import JsonLines, append_line, keep_until, rollout_metrics
from agentrl.trajectory import Group, StopReason, Timings


def test_by_hand(hand: Any):
    """Group a: right with 2 calls, wrong with 1 failing call and an unreadable action; b: two right
    without calls; c: one half right, one lost.

    Five count. Reward (1 + 0 + 1 + 1 + 0.5) / 5; calls 3 / 5; correct 3, productivity 3 / 3. Groups a
    and c solved at most half, with 3 calls in 3 trajectories. Everybody's tokens were generated.
    """
    a, b, c = (hand.task(n) for n in "abc")
    groups = [
        Group(a, (
            hand.trajectory(a, 0, 1.0, tokens=4, calls=[None, None], n_turns=3, reward=3.0),
            hand.trajectory(a, 1, 0.0, tokens=6, calls=["execution", "parse"], n_turns=3, reward=1.0),
        )),
        Group(b, (
            hand.trajectory(b, 0, 1.0, tokens=1, n_turns=1),
            hand.trajectory(b, 1, 1.0, tokens=1, n_turns=1),
        )),
        Group(c, (
            hand.trajectory(c, 0, 0.5, tokens=8, n_turns=2, stop=StopReason.MAX_TURNS),
            hand.trajectory(c, 1, None, tokens=90, n_turns=9, calls=[None]),
        )),
    ]  # fmt: skip
    found = rollout_metrics(groups)
    expected = {
        "reward": 3.5 / 5, "accuracy": 3 / 5, "calls": 3 / 5, "productivity": 1.0,
        "call_errors": 2 / 4, "turns": 2.0, "rows": 1.0, "length": 4.0, "truncated": 1 / 5, "excluded": 0.0,
        "errors": 1 / 6, "zero_variance_groups": 2 / 3, "length_correct": 2.0, "length_wrong": 7.0,
        "stop/terminated": 4 / 5, "stop/max_turns": 1 / 5, "tool_s": 0.0, "queue_s": 0.0,
        "reward_std": 2**0.5 / 3, "calls_attempted": 4 / 5, "calls_successful": 2 / 5,
        "calls_hard": 1.0, "n_executed": 0.0, "n_generated": 110.0, "branches": 0.0,
    }  # fmt: skip
    assert found == pytest.approx(expected)


def test_components_and_times(hand: Any):
    a = hand.task("a")
    members = (
        hand.trajectory(a, 0, 1.0, timings=Timings(tool_s=1.0, queue_s=0.5)).scored(judge=0.5),
        hand.trajectory(a, 1, 0.0, timings=Timings(tool_s=3.0)),
    )
    found = rollout_metrics([Group(a, members)])
    assert (found["reward/judge"], found["tool_s"], found["queue_s"]) == (0.5, 2.0, 0.25)
    assert found["reward"] == 0.5


def test_the_reported_reward_is_the_environment_s_not_the_shaped_one(hand: Any):
    a = hand.task("a")
    shaped = hand.trajectory(a, 0, 1.0, reward=-5.0, excluded="overlong")
    found = rollout_metrics([Group(a, (shaped,))])
    assert (found["reward"], found["accuracy"], found["excluded"]) == (1.0, 1.0, 1.0)


def test_what_cannot_be_had_is_not_zero(hand: Any):
    found = rollout_metrics([hand.group("a", 0.0, 0.0)])
    assert math.isnan(found["productivity"])
    assert math.isnan(found["length_correct"])
    assert found["zero_variance_groups"] == 1.0


def test_a_group_that_failed_whole_has_no_variance_to_speak_of(hand: Any):
    found = rollout_metrics([hand.group("a", 1.0, 0.0), hand.group("b", None, None)])
    assert (found["zero_variance_groups"], found["errors"]) == (0.0, 0.5)
    assert rollout_metrics([hand.group("b", None)]) == {"errors": 1.0}


def test_json_lines(tmp_path: Path):
    sink = JsonLines(tmp_path / "metrics.jsonl")
    sink.step(0, {"reward": 0.5, "productivity": math.nan, "kl": math.inf})
    sink.step(1, {"reward": 0.75})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"schema_version": 1, "step": 0, "reward": 0.5, "productivity": None, "kl": None},
        {"schema_version": 1, "step": 1, "reward": 0.75},
    ]


def test_a_full_device_fails_the_run(tmp_path: Path):
    with pytest.raises(RunFailed, match=r"cannot write /dev/full: No space left on device; free"):
        append_line(Path("/dev/full"), "x" * 100_000)


def test_a_line_that_did_not_fit_leaves_nothing(tmp_path: Path):
    """A file may grow to 150 bytes: the first line fits, half of the second would."""
    import resource
    import signal

    path = tmp_path / "lines.jsonl"
    append_line(path, "a" * 99)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, before[1]))
    try:
        with pytest.raises(RunFailed, match=r"cannot write .*: File too large"):
            append_line(path, "b" * 99)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == "a" * 99 + "\n"
    append_line(path, "c")
    assert path.read_text() == "a" * 99 + "\nc\n"


def test_a_folder_that_may_not_be_written(tmp_path: Path):
    with pytest.raises(RunFailed, match=r"cannot write .*: No such file or directory"):
        append_line(tmp_path / "gone" / "lines.jsonl", "x")


def test_keep_until_drops_later_steps_and_half_a_line(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": i, "reward": i}) + "\n" for i in range(5)]
    path.write_text("".join(lines) + '{"step": 5, "rew')
    keep_until(path, 3)
    assert path.read_text() == "".join(lines[:3])
    keep_until(path, 3)
    assert path.read_text() == "".join(lines[:3])
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_keep_until_reads_steps_from_uids(tmp_path: Path):
    """Task ids may hold slashes; a line may break off inside a character."""
    path = tmp_path / "trajectories.jsonl"
    lines = [f'{{"uid":"{step}/mul/1/3-4/0","text":"é\u2028\x85"}}\n' for step in (0, 2, 10)]
    path.write_bytes("".join(lines).encode() + '{"uid":"10/x/0","text":"é'.encode()[:-1])
    keep_until(path, 3)
    assert path.read_bytes().decode() == "".join(lines[:2])


def test_keep_until_of_nothing(tmp_path: Path):
    keep_until(tmp_path / "metrics.jsonl", 3)
    assert os.listdir(tmp_path) == []


def test_keep_until_on_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: Any):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n')

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(RunFailed, match="No space left on device"):
            keep_until(path, 1)
    assert path.read_text() == '{"step": 0}\n{"step": 1}\n'


@given(st.lists(st.text(max_size=20), max_size=6), st.integers(0, 6), st.integers(0, 40))
def test_a_killed_writer_and_a_resumed_reader(texts: list[str], step: int, cut: int):
    """Whatever the text and wherever the kill: exactly the whole lines before `step` are left."""
    import tempfile

    lines = [
        json.dumps({"step": i, "text": text}, ensure_ascii=False).encode("utf-8", "surrogatepass")
        + b"\n"
        for i, text in enumerate(texts)
    ]
    written = b"".join(lines)[: max(0, sum(map(len, lines)) - cut)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines.jsonl"
        path.write_bytes(written)
        keep_until(path, step)
        whole = written.count(b"\n")
        kept = [json.loads(line)["step"] for line in path.read_bytes().split(b"\n")[:-1]]
    # A last line that lacks only its newline is whole all the same.
    extra = whole < len(lines) and written.endswith(lines[whole][:-1]) and cut > 0
    assert kept == [i for i in range(whole + extra) if i < step]


def test_stop_reasons_are_shares_of_the_scored(hand: Any):
    a = hand.task("a")
    members = (
        hand.trajectory(a, 0, 0.0, stop=StopReason.TURN_TOKENS),
        hand.trajectory(a, 1, 1.0),
        hand.trajectory(a, 2, None),
    )
    found = rollout_metrics([Group(a, members)])
    assert {k: v for k, v in found.items() if k.startswith("stop/")} == {
        "stop/turn_tokens": 0.5,
        "stop/terminated": 0.5,
    }
