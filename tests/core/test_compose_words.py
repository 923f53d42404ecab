"""From words to the tree: who wins, and what a mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl import compose as module
from agentrl import registry
from agentrl.compose import compose, config_root, dump, read_words, read_yaml
from agentrl.config import Plugin, RunConfig, validated
from agentrl.errors import UserError
from agentrl.plugins import build, options


class Gadget:
    """A plug-in with options."""

    def __init__(self, *, size: int = 3, colour: str = "red", seed: int = 0) -> None:
        self.size, self.colour, self.seed = size, colour, seed


@pytest.fixture
def own_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config root with one file of every kind, each setting `train.steps` or a neighbour."""
    monkeypatch.setattr(registry, "_registered", {("env", "gadget"): Gadget})
    files = {
        "default.yaml": "env: gadget\nmodel: small\nsandbox: local\ntrain: {steps: 1, keep: 1}\n",
        "env/gadget.yaml": "name: gadget\nmax_turns: 2\nsize: 2\n",
        "model/small.yaml": "path: small\nwith:\n  train: {steps: 2}\n"
        "  env: {max_turns: 9, size: 9, not_there: 1}\n",
        "model/large.yaml": "path: large\n",
        "recipe/fast.yaml": "train: {steps: 3, tasks_per_step: 3}\n",
        "recipe/wide.yaml": "model: large\ntrain: {tasks_per_step: 4}\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(module, "config_root", lambda: tmp_path)
    return tmp_path


def test_defaults_are_the_weakest_and_words_the_strongest(own_configs: Path):
    user = own_configs / "user.yaml"
    user.write_text("train: {steps: 4}\nenv: {colour: blue}\n")
    assert compose([]).train.steps == 2, "with: of the model file beats the defaults"
    assert compose(["model=large"]).train.steps == 1, "no companion, so the default stands"
    assert compose(["recipe=fast"]).train.steps == 3, "a recipe beats companions"
    assert compose(["recipe=fast", f"@{user}"]).train.steps == 4, "a user file beats recipes"
    everything = compose(["train.steps=5", "recipe=fast", f"@{user}"])
    assert everything.train.steps == 5, "words beat all, wherever they stand"
    assert everything.train.tasks_per_step == 3
    assert everything.train.keep == 1
    assert everything.env.given == {"size": 2, "colour": "blue"}


def test_a_group_s_own_file_beats_companions_and_what_the_env_lacks_is_left_out(own_configs: Path):
    env = compose([]).env
    assert (env.max_turns, env.given) == (2, {"size": 2})


def test_an_environment_suggests_its_model_and_a_trained_model_brings_its_environment(
    own_configs: Path,
):
    (own_configs / "env" / "quiz.yaml").write_text("name: gadget\nwith: {model: large}\n")
    assert compose(["env=quiz"]).model.path == "large", "suggested"
    assert compose(["env=quiz", "model=small"]).model.path == "small", "asked for"
    assert compose([]).model.path == "small", "the default"
    run = own_configs / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    stored = "env: {name: gadget, size: 7}\nmodel: {path: large}\nlearner: {name: torch}\n"
    (run / "config.yaml").write_text(stored)
    (own_configs / "default.yaml").write_text("env: quiz\nmodel: small\nsandbox: local\n")
    trained = compose([f"model={run}"])
    assert trained.model.path == str(run)
    assert trained.env.given == {"size": 7}, "its environment, as it was in training"
    assert compose([f"model={run}", "env.size=8"]).env.given == {"size": 8}


def test_later_recipes_win_and_may_choose_groups(own_configs: Path):
    both = compose(["recipe=fast", "recipe=wide"])
    assert (both.train.tasks_per_step, both.model.path, both.train.steps) == (4, "large", 3)
    assert compose(["recipe=wide", "model=small"]).model.path == "small"


def test_a_name_without_a_file_is_a_plugin_or_a_path(own_configs: Path):
    assert compose(["model=Qwen/Qwen2.5-1.5B-Instruct"]).model.path == "Qwen/Qwen2.5-1.5B-Instruct"
    assert compose(["engine=my.module:Engine"]).engine.name == "my.module:Engine"


def test_the_dump_reads_back(own_configs: Path):
    config = compose(["recipe=fast", "env.size=7"])
    (own_configs / "dumped.yaml").write_text(dump(config))
    assert compose([f"@{own_configs}/dumped.yaml"]) == config


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train.step=3"], "unknown key 'train.step'; did you mean 'steps'"),
        (["trian.steps=3"], "unknown key 'trian'; did you mean 'train'"),
        (["rollout.top_p=0.9"], "rollout.top_p is not offered: .*use eval.top_p"),
        (["train.steps=abc"], "train.steps: .*integer.*got 'abc'"),
        (["train.steps=0"], "train.steps: .*greater than 0, got 0"),
        (["train.deterministic=7"], "train.deterministic: .*boolean"),
        (["recipe=fats"], "there is no recipe 'fats'; did you mean 'fast'"),
        (["algo=grop"], "there is no algo config 'grop'"),
        (["steps"], "'steps' is not of the form key=value"),
        (["=3"], "'=3' is not of the form key=value"),
        (["@missing.yaml"], "there is no config file missing.yaml"),
    ],
)
def test_mistakes_get_one_sentence(own_configs: Path, words: list[str], told: str):
    with pytest.raises(UserError, match=told) as caught:
        compose(words)
    assert "\n" not in str(caught.value)


def test_a_malformed_file_names_itself_and_the_line(own_configs: Path):
    bad = own_configs / "bad.yaml"
    bad.write_text("train:\n  steps: [1\n")
    with pytest.raises(UserError, match=r"bad\.yaml cannot be read as YAML.*line 3"):
        compose([f"@{bad}"])
    bad.write_text("- 1\n- 2\n")
    with pytest.raises(UserError, match="must hold a mapping"):
        compose([f"@{bad}"])


def test_plugin_options_are_checked_against_the_factory(own_configs: Path):
    assert options("env", Plugin(name="gadget", size="4")) == {"size": 4}
    made = build("env", Plugin(name="gadget", size=4), seed=5, not_wanted=1)
    assert (made.size, made.colour, made.seed) == (4, "red", 5)
    with pytest.raises(UserError, match=r"unknown key 'env\.sise'; did you mean 'size'"):
        options("env", Plugin(name="gadget", sise=4))
    with pytest.raises(UserError, match=r"env\.size: .*integer"):
        options("env", Plugin(name="gadget", size="big"))
    with pytest.raises(UserError, match=r"unknown key 'env\.seed'"):
        options("env", Plugin(name="gadget", seed=4))


def test_an_option_without_a_default_is_asked_for(own_configs: Path):
    def needy(*, place: str, seed: int) -> str:
        return f"{place}/{seed}"

    registry.register("tool", "needy", needy)
    assert build("tool", Plugin(name="needy", place="here"), seed=3) == "here/3"
    with pytest.raises(UserError, match=r"tool 'needy' needs tool\.place="):
        build("tool", Plugin(name="needy"), seed=3)


@settings(max_examples=30)
@given(st.permutations(["train.steps=5", "seed=3", "env.max_turns=7", "model=nano"]))
def test_order_of_different_words_does_not_matter(words: list[str]):
    config = compose(words)
    assert (config.train.steps, config.seed, config.env.max_turns) == (5, 3, 7)


def test_of_equal_keys_the_last_wins():
    assert compose(["seed=1", "seed=2"]).seed == 2
    assert read_words(["env=a", "env=b"]).choices == {"env": "b"}


def test_every_shipped_file_says_what_it_is_and_resolves():
    files = sorted(config_root().rglob("*.yaml"))
    assert len(files) >= 7
    for path in files:
        assert isinstance(read_yaml(path), dict)
    headless = [
        p.name for p in (config_root() / "recipe").glob("*.yaml") if p.read_text()[0] != "#"
    ]
    assert headless == []
    for name in module.group_names("recipe"):
        assert isinstance(compose([f"recipe={name}"]), RunConfig), name


def test_a_tree_needs_an_environment():
    with pytest.raises(UserError, match="env is required; give env="):
        validated({})
