"""What holds for the recipe of every method: it resolves, its parts fit, its header is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentrl.cli.recipes import recipes
from agentrl.compose import compose, config_root, group_names
from agentrl.engine.scripted import ScriptedEngine
from agentrl.model_path import shipped_models
from agentrl.plugins import options
from agentrl.registry import listing
from agentrl.train import setup
from agentrl.train.assemble import called, make_episodes, make_method, make_update
from agentrl.train.demands import check_demands

LABELS = ("Paper", "Changes", "Differs", "Nano", "Published", "Measured")
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "recipes"


NO_METHOD = {*shipped_models(), "retool_qwen2.5_7b"}
"""Recipes that are a model or a size."""
NOT_DELIVERED = {
    "schedule periodic_reset": "a switch of prorl",
}
"""Estimators, losses, terms and schedules without a recipe, and why."""


@pytest.fixture(scope="module")
def parts() -> Any:
    """An environment and the parts of an episode, made once: recipes do not change them."""
    config = compose(["env=retool_math"])
    make_env = setup.env_factory(config.env)
    chat = setup.open_chat(config, make_env())
    engine = ScriptedEngine(lambda ids, sampling, request: "")
    return make_env(), setup.make_parts(config, chat, make_env, engine, 1.0)


def test_it_composes_and_its_parts_fit(recipe: str, lab: Any, parts: Any) -> None:
    """As before a run: everything is built by name and nothing lacks what it needs."""
    env, episode = parts
    config = lab.config(recipe)
    options("learner", config.learner)
    update = make_update(config)
    episodes = make_episodes(config, episode)
    method = make_method(config, setup.train_source(config, env), episode, episodes)
    check_demands(config, env, called(update, method))


def test_every_file_is_a_method_a_model_or_a_size(headers: Any) -> None:
    assert {name for name in group_names("recipe") if "Nano" not in headers.of(name)} == NO_METHOD


def test_every_estimator_loss_term_and_schedule_is_in_a_recipe_or_not_delivered() -> None:
    used = {f"{kind} {name}" for r in recipes() for kind in r.points for name in r.points[kind]}
    used |= {"advantage outcome", "loss clip"}
    ours = {
        f"{kind} {found.name}"
        for kind in ("advantage", "loss", "aux", "schedule")
        for found in listing(kind)
        if found.where.startswith("agentrl.")
    }
    assert ours - used == set(NOT_DELIVERED)


def test_it_composes_at_published_size(recipe: str, headers: Any) -> None:
    words = headers.published(recipe)
    assert f"recipe={recipe}" in words
    config = compose(words)
    options("learner", config.learner)
    make_update(config)


def test_its_header_is_whole(recipe: str, headers: Any) -> None:
    found = headers.of(recipe)
    assert tuple(found) == LABELS
    assert "arXiv " in found["Paper"] or "no paper" in found["Paper"]
    assert f"recipe={recipe}" in headers.nano(recipe)
    lines = (config_root() / "recipe" / f"{recipe}.yaml").read_text().splitlines()
    assert max(map(len, lines)) <= 108


def test_its_measurement_is_the_one_in_the_results(recipe: str, headers: Any) -> None:
    """The line in the header was written from the JSON, which was made by the same command."""
    path = RESULTS / f"{recipe}.json"
    assert path.is_file(), (
        f"a recipe counts once it ran: python benchmarks/recipes.py --only {recipe}"
    )
    stored = json.loads(path.read_text())
    assert headers.of(recipe)["Measured"] == stored["measured"]
    assert stored["words"][: len(headers.nano(recipe))] == headers.nano(recipe)
