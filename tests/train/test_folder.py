"""A run folder explains itself before the first step, and is never written over."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentrl.compose import read_yaml
from agentrl.config import RunConfig, validated
from agentrl.errors import RunFailed, UserError
from agentrl.train.folder import RunFolder, create, fingerprint, planned
from agentrl.train.metrics import append_line

Dice = Callable[..., RunConfig]


def made(config: RunConfig) -> RunFolder:
    folder = planned(config)
    create(folder, config, "agentrl train seed=3")
    return folder


def test_it_explains_itself(dice: Dice, tmp_path: Path):
    config = dice(dir=str(tmp_path / "run"))
    folder = made(config)
    about = json.loads((folder.path / "run.json").read_text())
    assert about["command"] == "agentrl train seed=3"
    assert about["seed"] == 3
    assert about["schema_version"] == 1
    assert about["fingerprint"] == fingerprint(config)
    assert {"torch", "numpy", "transformers"} <= set(about["versions"])
    assert set(about) >= {"agentrl", "started", "python", "platform", "git"}
    assert validated(read_yaml(folder.path / "config.yaml")) == config
    assert folder.config() == config
    assert folder.checkpoints.is_dir()


def test_planning_makes_nothing(dice: Dice, tmp_path: Path):
    planned(dice(dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_run_is_refused(dice: Dice, tmp_path: Path):
    config = dice(dir=str(tmp_path / "run"))
    made(config)
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(UserError, match=r"already holds a run; choose another dir=, or go on with"):
        planned(config)
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_a_name_is_made_of_env_model_and_time(dice: Dice):
    path = planned(dice(model={"path": "Qwen/Qwen2.5-1.5B"})).path
    assert path.parts[0] == "runs"
    assert path.name.startswith("Dice--Qwen2.5-1.5B--20")


def test_the_fingerprint_is_of_what_is_computed(dice: Dice):
    same = [dice(), dice(dir="elsewhere"), dice(resume="elsewhere")]
    assert len({fingerprint(config) for config in same}) == 1
    others = [
        dice(), dice(seed=4), dice(env={"box": True}), dice(learner={"lr": 0.02}),
        dice(train={"steps": 7}), dice(algo={"loss": {"name": "clip", "low": 0.1}}),
    ]  # fmt: skip
    assert len({fingerprint(config) for config in others}) == len(others)


def test_the_fingerprint_survives_the_file(dice: Dice, tmp_path: Path):
    """Small numbers, tuples and plug-in options through YAML and back."""
    config = dice(
        dir=str(tmp_path / "run"),
        learner={"lr": 1e-6, "betas": (0.9, 0.95)},
        algo={"shapers": [{"name": "overlong", "max_tokens": 9, "cache_tokens": 3}]},
        env={"pause_s": 0.1},
    )
    assert fingerprint(made(config).config()) == fingerprint(config)


def test_no_run_is_here(tmp_path: Path):
    with pytest.raises(UserError, match=r"is not a run folder: it has no run\.json"):
        RunFolder(tmp_path).config()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"schema_version": 7, "agentrl": "9.9"}', "schema_version 7, this agentrl reads 1"),
        ('{"schema_version"', "run.json is damaged"),
    ],
)
def test_a_folder_of_another_schema(dice: Dice, tmp_path: Path, text: str, told: str):
    folder = made(dice(dir=str(tmp_path / "run")))
    (folder.path / "run.json").write_text(text)
    with pytest.raises(UserError, match=told) as raised:
        folder.config()
    assert "\n" not in str(raised.value)


def test_an_edited_config_is_refused_by_name(dice: Dice, tmp_path: Path):
    folder = made(dice(dir=str(tmp_path / "run")))
    text = (folder.path / "config.yaml").read_text()
    (folder.path / "config.yaml").write_text(text.replace("steps: 6", "stepss: 6"))
    with pytest.raises(UserError, match="did you mean 'steps'"):
        folder.config()


def test_a_folder_that_cannot_be_made(dice: Dice, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    config = dice(dir=str(tmp_path / "file" / "run"))
    with pytest.raises(RunFailed, match=r"cannot write the run folder .*: Not a directory"):
        made(config)


def test_paths_of_a_run(tmp_path: Path):
    folder = RunFolder(tmp_path)
    append_line(folder.metrics, "{}")
    append_line(folder.trajectories, "{}")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "trajectories.jsonl"]


def test_outside_a_repository_the_git_state_is_unknown(
    dice: Dice, tmp_path: Path, monkeypatch: Any
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    folder = made(dice(dir="run"))
    assert json.loads((folder.path / "run.json").read_text())["git"] is None
