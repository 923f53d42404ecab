"""Branched rollouts through the whole path: the shipped model, the real sandbox, the real update."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentrl.compose import compose
from agentrl.train.run import train
from agentrl.trajectory import Trajectory
from agentrl.trajectory_json import from_line


def trained(folder: Path, *words: str) -> tuple[list[dict[str, Any]], list[Trajectory]]:
    """Metrics and trajectories of two steps of four tasks."""
    place = ["train.steps=2", "train.tasks_per_step=4", "eval.every=0", "seed=1", f"dir={folder}"]
    train(compose(["env=retool_math", *words, *place]), sinks=(), command="test")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = (folder / "trajectories.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], [from_line(row) for row in rows]


@pytest.mark.parametrize("recipe", ["arpo", "arpo_hard", "aepo"])
def test_a_recipe_trains_on_trees(tmp_path: Path, recipe: str) -> None:
    """Groups are whole, branches share what they say, and the metrics add up from the record."""
    metrics, everyone = trained(tmp_path / "run", f"recipe={recipe}")
    assert Counter(t.task.id for t in everyone).most_common()[-1][1] == 8
    by_uid = {t.uid: t for t in everyone}
    branches = [t for t in everyone if t.parent is not None]
    assert len(branches) > 4
    for t in branches:
        parent, n = by_uid[t.parent or ""], t.fork_tokens or 0
        assert (t.rows[0].token_ids[:n] == parent.rows[0].token_ids[:n]).all()
        assert (t.rows[0].logprobs[:n] == parent.rows[0].logprobs[:n]).all()
        assert t.n_executed < t.n_calls, "the calls before it were not run again"
    for t in everyone:
        for row in t.rows:
            assert (row.logprobs[row.mask] < 0).all()
    assert sum(m["branches"] for m in metrics) == len(branches)
    assert sum(m["n_executed"] for m in metrics) == sum(t.n_executed for t in everyone)
    own = sum(t.n_sampled - int(t.rows[0].mask[: t.fork_tokens or 0].sum()) for t in everyone)
    assert sum(m["n_generated"] for m in metrics) == own
    assert all(math.isfinite(m["loss"]) and m["gap_max"] < 1e-4 for m in metrics)


def test_a_tree_is_the_same_twice(tmp_path: Path) -> None:
    first, again = (trained(tmp_path / name, "recipe=arpo")[1] for name in ("a", "b"))
    assert [t.uid for t in first] == [t.uid for t in again]
    for a, b in zip(first, again, strict=True):
        assert (a.parent, a.fork_tokens, a.reward) == (b.parent, b.fork_tokens, b.reward)
        np.testing.assert_array_equal(a.rows[0].token_ids, b.rows[0].token_ids)
