"""The commands' entry points: what they write, and one clear sentence for every bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentrl.compose import compose
from agentrl.config import RunConfig, validated
from agentrl.errors import RunFailed, SetupError, UserError
from agentrl.model_path import model_path
from agentrl.points import Ctx
from agentrl.train import checkpoint
from agentrl.train.run import evaluate, sft, train
from agentrl.train.setup import env_factory, eval_tasks, train_source
from agentrl.trajectory_json import from_line

Dice = Callable[..., RunConfig]


def test_train_writes_a_run_folder(dice: Dice, tmp_path: Path, notes: Any):
    config = dice(dir=str(tmp_path / "run"), train={"steps": 2})
    folder = train(config, sinks=[notes], command="agentrl train seed=3")
    names = {p.name for p in folder.iterdir()}
    assert names == {
        "config.yaml", "run.json", "metrics.jsonl", "trajectories.jsonl", "checkpoints",
    }  # fmt: skip
    assert [step for step, _ in notes.steps] == [0, 1]
    ((total, summary),) = notes.started
    assert (total, summary["folder"], summary["engine"]) == (2, str(folder), "transformers")
    assert notes.closed == 1
    stored = [
        from_line(line) for line in (folder / "trajectories.jsonl").read_text().split("\n")[:-1]
    ]
    assert len(stored) == 2 * 3 * 4
    assert [t.uid for t in stored[:4]] == [f"0/train/1/{i}" for i in range(4)]
    assert all(t.reward is not None for t in stored)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        members = [t for t in stored if t.uid.startswith(f"{line['step']}/")]
        assert line["reward"] == pytest.approx(sum(t.rewards["env"] for t in members) / 12)
        assert line["length"] == pytest.approx(sum(t.n_sampled for t in members) / 12)
        assert line["n_tokens"] == sum(t.n_sampled for t in members)


def test_a_run_folder_is_a_model(dice: Dice, tmp_path: Path):
    """The best checkpoint where there is one, and evaluation of it."""
    config = dice(
        dir=str(tmp_path / "run"), train={"steps": 2},
        eval={"every": 1, "tasks": 4},
    )  # fmt: skip
    folder = train(config, sinks=[], command="x")
    found = checkpoint.best(folder / "checkpoints") or checkpoint.latest(folder / "checkpoints")
    assert found is not None
    assert Path(model_path(str(folder))) == found / "model"
    again = dice(dir=str(tmp_path / "eval"), model={"path": str(folder)}, eval={"tasks": 4})
    assert evaluate(again, sinks=[], command="x").tasks == 4


def test_evaluate_writes_every_trajectory_and_its_report(dice: Dice, tmp_path: Path, notes: Any):
    config = dice(dir=str(tmp_path / "run"), eval={"tasks": 5, "samples": 3})
    found = evaluate(config, sinks=[notes], command="agentrl eval")
    text = (tmp_path / "run" / "trajectories.jsonl").read_text()
    stored = [from_line(line) for line in text.split("\n")[:-1]]
    assert len(stored) == found.trajectories == 15
    assert found.accuracy.value == pytest.approx(sum(t.correct for t in stored) / 15)
    assert set(found.pass_at) == {1, 2}
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report == json.loads(json.dumps(found.to_json()))
    assert notes.notes[-1].startswith(f"accuracy {found.accuracy.value:.3f} (95 %")
    assert (notes.started[0][0], notes.closed) == (5, 1)
    assert {t.task.id.split("/")[0] for t in stored} == {"test"}


def test_the_same_seed_evaluates_the_same(dice: Dice, tmp_path: Path):
    """Greedy differs from sampling; another seed samples otherwise."""

    def answers(name: str, **changes: Any) -> list[str | None]:
        config = dice(dir=str(tmp_path / name), **changes)
        evaluate(config, sinks=[], command="x")
        text = (tmp_path / name / "trajectories.jsonl").read_text()
        stored = sorted(map(from_line, text.split("\n")[:-1]), key=lambda t: t.uid)
        return [t.rows[0].token_ids.tolist() for t in stored]

    tasks = {"eval": {"tasks": 6}}
    assert answers("a", **tasks) == answers("b", **tasks)
    assert answers("c", **tasks, seed=9) != answers("a2", **tasks)
    assert answers("d", eval={"tasks": 6, "temperature": 0.0}) != answers("a3", **tasks)


def test_sinks_are_closed_when_a_run_fails(dice: Dice, tmp_path: Path, notes: Any):
    class Full:
        def start(self, *_: Any) -> None: ...
        def note(self, *_: Any) -> None: ...
        def close(self) -> None: ...

        def step(self, *_: Any) -> None:
            raise RunFailed("the disk is full")

    config = dice(dir=str(tmp_path / "run"))
    with pytest.raises(RunFailed, match="the disk is full"):
        train(config, sinks=[Full(), notes], command="x")  # type: ignore[list-item]
    assert notes.closed == 1


# Bad input. Each is one sentence, and nothing half-written is left.

GSM8K = '{"question": "1+1?", "answer": "It is 2. #### 2"}\n'


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"env": {"name": "retool_meth"}}, "no env named 'retool_meth'; did you mean 'retool_math'"),
        ({"env": {"colour": "red"}}, "unknown key 'env.colour'"),
        ({"env": {"boxx": True}}, "did you mean 'box'"),
        ({"env": {"distinct": "many"}}, "env.distinct: input should be a valid integer"),
        ({"env": {"protocol": "hermess"}}, "no protocol named 'hermess'; did you mean 'hermes'"),
        ({"model": {"path": "/no/such/model"}}, "there is no model folder /no/such/model"),
        ({"model": {"path": "~/no/such/model"}}, "there is no model folder ~/no/such/model"),
        ({"model": {"renderer": "nanno"}}, "nanno"),
        ({"engine": {"name": "transformer"}}, "did you mean 'transformers'"),
        ({"learner": {"momentum": 0.9}}, "unknown key 'learner.momentum'"),
        ({"algo": {"loss": {"name": "clip", "low": 7}}}, "clip needs 0 <= low <= 1"),
        ({"algo": {"shapers": [{"name": "otk"}]}}, "no shaper named 'otk'; did you mean 'otc'"),
        ({"algo": {"advantage": {"name": "outcome", "center": "left"}}}, "advantage.center"),
        ({"algo": {"offpolicy": {"low": 3.0}}}, "offpolicy bounds are ratios"),
        ({"data": {"path": "none.jsonl"}}, "none.jsonl"),
        ({"data": {"path": "a.jsonl", "hf": "b"}}, "give data.path or data.hf, not both"),
        ({"eval": {"every": 1, "tasks": 1001}}, "has only 1000 distinct tasks under these options"),
        ({"resume": "/no/such/run"}, "/no/such/run is not a run folder: it has no run.json"),
    ],
)  # fmt: skip
def test_bad_input(dice_tree: Any, tmp_path: Path, changes: Any, told: str):
    tree = dice_tree(dir=str(tmp_path / "run"), train={"steps": 1}, **changes)
    with pytest.raises((UserError, SetupError)) as raised:
        train(validated(tree), sinks=[], command="x")
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GSM8K + '{"question": "2+2?"}\n', "tasks.jsonl:2"),
        (GSM8K + "{\n", "tasks.jsonl:2"),
        ("", "tasks"),
        ('{"colour": "red"}\n', "tasks.jsonl:1"),
    ],
)
@pytest.mark.parametrize("key", ["data", "eval"])
def test_bad_data(dice_tree: Any, tmp_path: Path, key: str, text: str, told: str):
    (tmp_path / "tasks.jsonl").write_text(text)
    where = {"path": str(tmp_path / "tasks.jsonl")}
    given = {"data": where} if key == "data" else {"eval": {**where, "every": 1}}
    tree = dice_tree(dir=str(tmp_path / "run"), **given)
    with pytest.raises(UserError, match=told) as raised:
        train(validated(tree), sinks=[], command="x")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_bad_start_does_not_block_the_folder(dice: Dice, tmp_path: Path):
    """The mistake is mended and the same command runs."""
    where = str(tmp_path / "run")
    with pytest.raises(UserError):
        train(dice(dir=where, model={"path": "/no/such"}), sinks=[], command="x")
    train(dice(dir=where, train={"steps": 1}), sinks=[], command="x")
    with pytest.raises(UserError, match="already holds a run; choose another dir="):
        evaluate(dice(dir=where), sinks=[], command="x")


def test_too_many_evaluation_tasks_of_a_small_split(dice: Dice, tmp_path: Path):
    config = dice(dir=str(tmp_path / "run"), env={"distinct": 7}, eval={"tasks": 8})
    with pytest.raises(UserError, match=r"has only 7 distinct tasks .*; set eval.tasks=7"):
        evaluate(config, sinks=[], command="x")
    assert not (tmp_path / "run").exists()
    enough = config.model_copy(update={"eval": config.eval.model_copy(update={"tasks": 7})})
    assert evaluate(enough, sinks=[], command="x").tasks == 7


def test_an_environment_without_tasks_of_its_own(dice: Dice, tmp_path: Path):
    (tmp_path / "quiet.py").write_text(
        "from agentrl.env import Env\n"
        "class Quiet(Env):\n"
        "    async def reset(self, task, *, seed): return ()\n"
        "    async def step(self, action): raise NotImplementedError\n"
    )
    config = dice(dir=str(tmp_path / "run"), env={"name": f"{tmp_path}/quiet.py:Quiet"})
    for command in (train, evaluate, sft):
        with pytest.raises((UserError, ExceptionGroup), match=r"generates no tasks|no expert"):
            command(config, sinks=[], command="x")


def test_not_an_environment(dice: Dice, tmp_path: Path):
    (tmp_path / "other.py").write_text("class Other:\n    pass\n")
    config = dice(dir=str(tmp_path / "run"), env={"name": f"{tmp_path}/other.py:Other"})
    with pytest.raises(UserError, match=r"is not an agentrl\.env\.Env"):
        train(config, sinks=[], command="x")


def test_an_environment_file_that_is_broken(dice: Dice, tmp_path: Path):
    (tmp_path / "broken.py").write_text("import no_such_module_at_all\n")
    config = dice(dir=str(tmp_path / "run"), env={"name": f"{tmp_path}/broken.py:Env"})
    with pytest.raises(SetupError, match="cannot be loaded: ModuleNotFoundError"):
        train(config, sinks=[], command="x")


def test_a_tokenizer_without_the_needed_tokens(dice: Dice, tmp_path: Path, tiny: Path):
    """nano's vocabulary under another name for its end of turn."""
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace("<|end|>", "<|stop|>"))
    config = dice(dir=str(tmp_path / "run"), model={"path": str(folder), "renderer": "nano"})
    with pytest.raises(UserError, match=r"<\|end\|>") as raised:
        train(config, sinks=[], command="x")
    assert "\n" not in str(raised.value)


def test_resume_of_a_run_without_a_checkpoint(dice: Dice, tmp_path: Path):
    from agentrl.train.folder import create, planned

    config = dice(dir=str(tmp_path / "run"))
    create(planned(config), config, "x")
    again = config.model_copy(update={"resume": str(tmp_path / "run")})
    with pytest.raises(UserError, match="holds no checkpoint yet; start it again with another dir"):
        train(again, sinks=[], command="x")


def test_resume_on_the_command_line_takes_the_stored_configuration(tmp_path: Path, tiny: Path):
    dice = Path(__file__).with_name("dice.py")
    words = [
        f"env={dice}:Dice", f"env.protocol={dice}:Letters", "env.turn_tokens=12", f"model={tiny}",
        "env.max_tokens=64", "train.steps=1", "train.tasks_per_step=2", "rollout.group_size=2",
        f"dir={tmp_path}/run", "learner.lr=1e-6",
    ]  # fmt: skip
    train(compose(words), sinks=[], command="x")
    again = compose([f"resume={tmp_path}/run"])
    assert again.model_copy(update={"resume": None}) == compose(words)
    assert train(again, sinks=[], command="x") == tmp_path / "run"
    with pytest.raises(UserError, match="was run with another configuration"):
        train(compose([f"resume={tmp_path}/run", "seed=4"]), sinks=[], command="x")


def test_model_paths(tmp_path: Path, monkeypatch: Any):
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert model_path("~/model") == str(tmp_path / "model")
    assert model_path("Qwen/Qwen2.5-1.5B-Instruct") == "Qwen/Qwen2.5-1.5B-Instruct"
    assert model_path("nano").endswith("_assets/nano")


def test_tasks_of_a_file(dice: Dice, tmp_path: Path):
    """Evaluation takes the first of the data file, or of its own; training visits each once."""
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(GSM8K.replace("1+1", f"{i}+1") for i in range(6)))
    config = dice(data={"path": str(path)}, eval={"tasks": 4})
    env = object()
    assert [t.question for t in eval_tasks(config, env)] == [f"{i}+1?" for i in range(4)]  # type: ignore[arg-type]
    source = train_source(config, env)  # type: ignore[arg-type]
    seen = source.next(6, Ctx(step=0, total_steps=1, seed=0))
    assert sorted(t.question for t in seen) == [f"{i}+1?" for i in range(6)]


def test_a_limit_makes_a_pool_of_generated_tasks(dice: Dice):
    """Five tasks that come again every epoch, and a source that may ask for it."""
    config = dice(data={"limit": 5, "source": {"name": "pass_rate"}})
    source = train_source(config, env_factory(config.env)())
    seen = [t.id for t in source.next(10, Ctx(step=0, total_steps=1, seed=0))]
    assert sorted(seen[:5]) == sorted(seen[5:]) == [f"train/{n}" for n in range(1, 6)]
    small = dice(data={"limit": 5}, env={"distinct": 3})
    with pytest.raises(UserError, match=r"only 3 distinct tasks.*data\.limit=3"):
        train_source(small, env_factory(small.env)())


def test_the_default_command_composes(tmp_path: Path):
    """`agentrl train env=retool_math` is the tree that README promises."""
    config = compose(["env=retool_math", f"dir={tmp_path}/run"])
    assert (config.model.path, config.engine.name, config.sandbox.name) == (
        "nano",
        "transformers",
        "local",
    )
    assert validated(config.model_dump(mode="json")) == config


def test_fewer_tasks_than_a_step_wants(dice: Dice, tmp_path: Path):
    """Two tasks, three groups a step: the repeated one is sampled anew, every uid is there once."""
    path = tmp_path / "tasks.jsonl"
    path.write_text(GSM8K + GSM8K.replace("1+1", "2+0"))
    config = dice(dir=str(tmp_path / "run"), data={"path": str(path)}, train={"steps": 2})
    folder = train(config, sinks=[], command="x")
    text = (folder / "trajectories.jsonl").read_text()
    stored = [from_line(line) for line in text.split("\n")[:-1]]
    assert len({t.uid for t in stored}) == len(stored) == 2 * 3 * 4
    assert len({t.seed for t in stored}) == len(stored)
