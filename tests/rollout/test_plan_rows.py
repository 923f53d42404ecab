"""Rows declared anew, and early looks at rewards: what plans that mix are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from agentrl.errors import UserError, WorldFault
from agentrl.points import Ctx, Services
from agentrl.rollout.plans.openings import asking, instructing
from agentrl.rollout.plans.rows import as_context, as_demo, certain, declared, prompt_of
from agentrl.rollout.plans.stage import Stage, response_of
from agentrl.trajectory import Trajectory
from agentrl.transcript import Origin, Segment, Transcript, floats_array
from agentrl.types import Message, Task

CTX = Ctx(step=0, total_steps=4, seed=1)
ROW = Transcript().append(
    Segment(Origin.PROMPT, [1, 2]),
    Segment(Origin.MODEL, [3, 4, 5], [-0.1, -0.2, -0.3], version=7, entropies=[0.5, 0.6, 0.7]),
    Segment(Origin.OBSERVATION, [6]),
    Segment(Origin.FORCED, [8, 9], [-0.7, 0.0], temperature=0.5),
)


def kinds(row: Transcript) -> str:
    """One letter a token: P, M, F, O, S or D."""
    return "".join(Origin(o).name[0] for o in row.origins)


@pytest.mark.parametrize(
    ("n", "wanted"),
    [(0, "PPMMMOFF"), (4, "PPSSMOFF"), (6, "PPSSSOFF"), (7, "PPSSSOSF"), (8, "PPSSSOSS")],
)
def test_a_shared_prefix_is_context(n: int, wanted: str) -> None:
    row = as_context(ROW, n)
    assert kinds(row) == wanted
    assert row.token_ids.tolist() == ROW.token_ids.tolist()
    kept = row.mask
    assert row.logprobs[kept].tolist() == ROW.logprobs[kept].tolist()
    assert row.entropies[kept].tolist() == ROW.entropies[kept].tolist()


def test_foreign_text_is_certain_and_shown_text_is_no_policys() -> None:
    row = certain(ROW)
    assert kinds(row) == "PPFFFOFF"
    assert row.logprobs.tolist() == [0.0] * 8
    assert row.temperatures.tolist()[-1] == 0.5
    assert kinds(as_demo(ROW)) == "PPDDDODD"
    assert not as_demo(ROW).mask.any()


def test_declared_numbers_are_read_under_the_mask_alone() -> None:
    row = declared(ROW, floats_array([-9.0, -9.0, -1.0, -2.0, -3.0, -9.0, -4.0, -5.0]))
    assert row.logprobs.tolist() == [0, 0, -1, -2, -3, 0, -4, -5]
    assert (row.train_context is not None, row.ratio_mode) == (True, "behaviour")
    assert prompt_of(row).tolist() == [1, 2]
    assert row.versions.tolist() == ROW.versions.tolist()
    with pytest.raises(ValueError, match="for a row of 8"):
        declared(ROW, floats_array([0.0]))


def test_openings_add_text_and_keep_the_rest() -> None:
    first = (Message("system", "S"), Message("user", "a"), Message("user", "b"))
    asked = asking(" !", ratio_mode="behaviour")
    assert [m.content for m in asked.rewrite(first)] == ["S", "a", "b !"]
    told = instructing("T", ratio_mode="relabel")
    assert [m.content for m in told.rewrite(first)] == ["T\n\nS", "a", "b"]
    assert [m.content for m in told.rewrite(first[1:])] == ["T", "a", "b"]
    assert (asked.train, asked.ratio_mode, told.ratio_mode) == ("plain", "behaviour", "relabel")


async def test_an_early_look_scores_nothing(world: Any, served: Any) -> None:
    async def style(trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        return {"style": 0.25}

    async def lost(trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        raise WorldFault("no judge")

    services = served(lambda *_: "<answer>4</answer>", rewards=(style,))
    stage = Stage(world.task, services, CTX)
    played = await stage.run(0)
    assert await stage.score(played) == 1.0
    assert await stage.score(played, "style") == 0.25
    assert played.rewards == {"env": 1.0}
    with pytest.raises(UserError, match="'polish', which nothing records"):
        await stage.score(played, "polish")
    broken = Stage(world.task, served(lambda *_: "x", rewards=(lost,)), CTX)
    assert await broken.score(played, "style") == 0.0


async def test_a_response_is_what_follows_the_prompt(world: Any, served: Any) -> None:
    def turn(text: str, seed: int) -> str:
        return "<answer>4</answer>" if "</code>" in text else "<code>2+2</code>"

    played = await Stage(world.task, served(turn), CTX).run(0)
    assert response_of(played) == "<code>2+2</code>\n2+2\n<answer>4</answer>"


def test_draws_belong_to_a_place(world: Any) -> None:
    """Another plan, sibling, task, step or repeat draws otherwise; the same one the same."""
    stage = Stage(world.task, None, CTX)  # type: ignore[arg-type]
    places = [
        stage.rng("a"),
        stage.rng("b"),
        stage.rng("a", 1),
        Stage(Task("u", "Q"), None, CTX).rng("a"),  # type: ignore[arg-type]
        Stage(world.task, None, Ctx(step=1, total_steps=4, seed=1)).rng("a"),  # type: ignore[arg-type]
        Stage(world.task, None, Ctx(step=0, total_steps=4, seed=1, repeat=1)).rng("a"),  # type: ignore[arg-type]
    ]
    assert len({rng.random() for rng in places}) == len(places)
    assert stage.rng("a").random() == stage.rng("a").random()
