"""Curricula, gates and schedules go on exactly: cut after the third step of six and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

CASES: Mapping[str, dict[str, Any]] = {
    "domains": {
        "data": {"source": {"name": "domains", "key": "level", "every": 1}},
        "algo": {
            "gate": {
                "name": "chain",
                "gates": [
                    {"name": "std_ema", "ema_from": 0, "filter_from": 2, "beta": 0.9},
                    {"name": "informative"},
                ],
            },
            "gate_rounds": 2,
            "replay": {"capacity": 8},
            "schedules": [
                {"name": "anneal", "start": 0.01, "end": 0.001},
                {"name": "temperature", "start": 0.8, "end": 1.2},
                {"name": "length_stages", "tokens": [48, 64], "steps": [4]},
            ],
        },
    },
    "stages": {
        "data": {
            "source": {
                "name": "stages",
                "stages": [
                    {"steps": 2, "values": [1, 2]},
                    {"steps": 2, "max_rate": 0.9},
                    {"drop_solved": True},
                ],
            }
        },
        "learner": {"reference": True},
        "algo": {
            "gate": {"name": "difficulty_weight"},
            "aux": [{"name": "kl", "coef": 0.1}],
            "schedules": [
                {"name": "reference_reset", "patience": 1, "metric": "reward"},
                {"name": "moving_anchor", "rate": 0.5, "every": 2},
                {
                    "name": "recap",
                    "window": 1,
                    "objectives": [
                        {"term": "policy", "metric": "reward", "complement": True},
                        {"term": "kl", "metric": "reward"},
                    ],
                },
            ],
        },
    },
    "one_shot": {"data": {"limit": 6, "source": {"name": "one_shot", "warmup_steps": 4}}},
}


@pytest.mark.parametrize("name", CASES)
def test_cut_and_resumed(name: str, cut_and_resumed: Callable[..., Any], tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    rows = [{"problem": f"{i}?", "answer": "1", "level": i % 3 + 1} for i in range(12)]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    case = CASES[name]
    data = {**case["data"], "path": str(tasks)}
    metrics, played = cut_and_resumed(**{**case, "data": data})
    assert len(metrics) == 6
    assert_acted(name, metrics, played)


def assert_acted(name: str, metrics: list[Any], played: list[Any]) -> None:
    """What was switched on can be seen in the numbers."""
    by_step = [[t for t in played if t["uid"].startswith(f"{step}/")] for step in range(6)]
    levels = [{t["task"]["metadata"]["level"] for t in of_step} for of_step in by_step]
    if name == "domains":
        assert metrics[0]["lr"] == pytest.approx(0.01)
        assert metrics[5]["lr"] == pytest.approx(0.001)
        assert sum(m.get("replayed", 0) + m.get("gate/std_low", 0) for m in metrics) > 0
        heats = [{s["temperature"] for t in step for r in t["rows"] for s in r["segments"]
                  if s["origin"] == "MODEL"} for step in by_step]  # fmt: skip
        assert [round(h, 6) for (h,) in map(tuple, heats)] == [0.8, 0.88, 0.96, 1.04, 1.12, 1.2]
    if name == "stages":
        assert levels[0] | levels[1] == {1, 2}
        assert any(m.get("reset_reference") for m in metrics)
    if name == "one_shot":
        assert [len({t["task"]["id"] for t in of_step}) for of_step in by_step] == [3] * 4 + [1] * 2
