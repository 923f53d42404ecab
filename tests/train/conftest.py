"""Groups made by hand, a tiny model, and runs of the toy environment `dice.py`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentrl.config import RunConfig, validated
from agentrl.train import checkpoint
from agentrl.train.fresh import fresh_model
from agentrl.train.metrics import TIME_METRICS
from agentrl.train.run import train
from agentrl.trajectory import CallRecord, Group, StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript
from agentrl.types import Task

SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 1,
    "num_key_value_heads": 1, "max_position_embeddings": 128, "tie_word_embeddings": True,
}  # fmt: skip
DICE = Path(__file__).with_name("dice.py")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of 20 thousand parameters with nano's tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    fresh_model(SHAPE, folder, seed=1)
    return folder


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        deeper = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if deeper else value
    return result


Tree = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def dice_tree(tiny: Path) -> Tree:
    """The configuration of a toy run as a plain tree, changed by nested mappings."""

    def make(**changes: Any) -> dict[str, Any]:
        base: dict[str, Any] = {
            "seed": 3,
            "env": {
                "name": f"{DICE}:Dice", "protocol": f"{DICE}:Letters",
                "turn_tokens": 12, "max_tokens": 64, "max_turns": 3,
            },
            "model": {"path": str(tiny)},
            "learner": {"name": "torch", "lr": 0.01},
            "rollout": {"group_size": 4},
            "train": {"steps": 6, "tasks_per_step": 3, "checkpoint_every": 3},
        }  # fmt: skip
        return merged(base, changes)

    return make


@pytest.fixture(scope="session")
def dice(dice_tree: Tree) -> Callable[..., RunConfig]:
    """The same, validated."""
    return lambda **changes: validated(dice_tree(**changes))


class Notes:
    """A sink that remembers what it was told."""

    def __init__(self) -> None:
        self.started: list[tuple[int, Mapping[str, str]]] = []
        self.steps: list[tuple[int, dict[str, float]]] = []
        self.notes: list[str] = []
        self.closed = 0

    def start(self, total_steps: int, summary: Mapping[str, str]) -> None:
        self.started.append((total_steps, summary))

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self.steps.append((step, dict(metrics)))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def notes() -> Notes:
    return Notes()


class Made:
    """Records by hand."""

    @staticmethod
    def task(name: str = "t", **metadata: Any) -> Task:
        return Task(name, "?", "1", metadata)

    @staticmethod
    def call(error: Any = None, wall_s: float = 0.0, queue_s: float = 0.0) -> CallRecord:
        return CallRecord(0, "python", "{}", "", error, False, wall_s, queue_s)

    @staticmethod
    def trajectory(
        of: Task, sibling: int = 0, env: float | None = 1.0, *, tokens: int = 2, step: int = 0,
        calls: Sequence[Any] = (), **fields: Any,
    ) -> Trajectory:  # fmt: skip
        """`env` None: the world failed it. `calls` are errors of ledger lines, or None."""
        row = Transcript().append(
            Segment(Origin.PROMPT, [1]),
            Segment(Origin.MODEL, [2] * tokens, [-1.0] * tokens, version=0),
        )
        failed = env is None
        given: dict[str, Any] = {
            "uid": f"{step}/{of.id}/{sibling}",
            "task": of,
            "sibling": sibling,
            "rows": (row,),
            "messages": (),
            "stop": StopReason.ERROR if failed else StopReason.TERMINATED,
            "rewards": {} if failed else {"env": env},
            "error": "SandboxError: lost" if failed else None,
            "calls": tuple(Made.call(error) for error in calls),
            **fields,
        }
        return Trajectory(**given)

    @staticmethod
    def group(name: str, *rewards: float | None, step: int = 0) -> Group:
        of = Made.task(name)
        members = [Made.trajectory(of, i, r, step=step) for i, r in enumerate(rewards)]
        return Group(of, tuple(members), step)


@pytest.fixture(scope="session")
def hand() -> type[Made]:
    return Made


class Cut(Exception):
    """The run is over for now."""


class Cutter:
    """A sink that ends a run after its third step."""

    def start(self, total_steps: int, summary: Mapping[str, str]) -> None: ...

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == 2:
            raise Cut

    def note(self, text: str) -> None: ...

    def close(self) -> None: ...


Found = Callable[[Path], tuple[list[Any], list[Any], str]]


@pytest.fixture
def found() -> Found:
    """Reads a run folder: metrics, trajectories without their times, the hash of the weights."""
    return _found


def _found(folder: Path) -> tuple[list[Any], list[Any], str]:
    """Metrics, trajectories without their times, and the hash of the weights."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if k not in TIME_METRICS} for line in lines]
    played = [json.loads(line) for line in (folder / "trajectories.jsonl").read_text().splitlines()]
    for record in played:
        record.pop("timings")
    last = checkpoint.latest(folder / "checkpoints")
    assert last is not None
    weights = (last / "model" / "model.safetensors").read_bytes()
    return metrics, played, hashlib.sha256(weights).hexdigest()


@pytest.fixture
def cut_and_resumed(dice_tree: Tree, tmp_path: Path) -> Callable[..., tuple[list[Any], list[Any]]]:
    """Runs the toy whole and cut after its third step, resumes it, and demands that both are equal."""

    def play(**changes: Any) -> tuple[list[Any], list[Any]]:
        trees = [dice_tree(**{**changes, "dir": str(tmp_path / half)}) for half in ("whole", "cut")]
        whole = train(validated(trees[0]), sinks=[], command="x")
        with pytest.raises(BaseException) as cut:
            train(validated(trees[1]), sinks=[Cutter()], command="x")
        alone = not isinstance(cut.value, BaseExceptionGroup)
        assert cut.type is Cut if alone else cut.group_contains(Cut)
        assert [m["step"] for m in _found(tmp_path / "cut")[0]] == [0, 1, 2]
        again = train(validated({**trees[1], "resume": trees[1]["dir"]}), sinks=[], command="x")
        assert _found(again) == _found(whole)
        metrics, played, _ = _found(whole)
        return metrics, played

    return play
