"""Plans that learn from the steps go on exactly: cut after the third step of six and resumed.

Partners are opened with the run and closed with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agentrl.config import validated
from agentrl.train.run import train

CASES: Mapping[str, dict[str, Any]] = {
    "deepsearch": {
        "rollout": {
            "plan": {
                "name": "deepsearch", "width": 2, "node_tokens": 3, "max_depth": 9, "rare": 0.6,
            }
        },
        "algo": {
            "advantage": {"name": "deepsearch"},
            "shapers": [{"name": "outcome", "wrong": -1.0}],
        },
    },
    "inspo": {
        "rollout": {
            "plan": {
                "name": "inspo", "every": 2, "proxy": 2, "instructions": ["A. B.", "C.", "D.", "E."],
            }
        }
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_cut_and_resumed(name: str, cut_and_resumed: Callable[..., Any], tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    rows = [{"problem": f"{i}?", "answer": "1"} for i in range(4)]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, played = cut_and_resumed(**CASES[name], data={"path": str(tasks)})
    if name == "deepsearch":
        old = [t for t in played if t["uid"].endswith("/replayed")]
        assert {int(t["uid"].split("/")[0]) for t in old} >= {3, 4, 5}, (
            "kept before the cut, used after"
        )
        assert all(t["rewards"]["env"] == 1.0 for t in old)
        assert any(t["parent"] is not None for t in played)
    if name == "inspo":
        numbers = {t["rewards"]["inspo/instruction"] for t in played}
        assert numbers & {0.0, 1.0, 2.0, 3.0}
        assert numbers & {4.0, 5.0, 6.0, 7.0}, "children work too"


def test_a_frozen_partner_lives_as_long_as_the_run(
    dice_tree: Callable[..., dict[str, Any]], found: Callable[..., Any], tmp_path: Path
) -> None:
    tree = dice_tree(dir=str(tmp_path / "run"), train={"steps": 2})
    tree["rollout"] |= {
        "plan": {"name": "long_short", "trained": "long", "role_tokens": 2},
        "partners": {"short": {"name": "transformers", "model": tree["model"]["path"]}},
    }
    folder = train(validated(tree), sinks=[], command="x")
    _, played, _ = found(folder)
    segments = [s for t in played for row in t["rows"] for s in row["segments"]]
    theirs = [s for s in segments if s["policy"] == "short"]
    assert theirs
    assert all(s["origin"] == "OBSERVATION" and "logprobs" not in s for s in theirs)
    assert any(s["origin"] == "MODEL" for s in segments)
