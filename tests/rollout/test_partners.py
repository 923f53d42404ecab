"""A partner writes into a row: read like an observation, part of the turn, trained nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import agentrl
from agentrl.compose import compose
from agentrl.config import Plugin
from agentrl.engine.scripted import ScriptedEngine
from agentrl.errors import UserError
from agentrl.plugins import build
from agentrl.points import Ctx
from agentrl.rollout.loop import Episodes
from agentrl.train import setup
from agentrl.train.demands import check_partners
from agentrl.trajectory_json import from_line, to_line
from agentrl.transcript import Origin
from agentrl_envs.retool_math import RetoolMath

CTX = Ctx(step=0, total_steps=1, seed=0)


async def test_its_tokens_are_observed_and_belong_to_the_turn(world: Any) -> None:
    policy = world.turns(world.renderer.demo("<think>hm").tolist())
    partner = world.turns("so <answer>4</answer>")
    parts = world.parts(policy, partners={"short": partner, "self": policy})
    async with Episodes(parts, seed=1).live(world.task, 0, CTX) as episode:
        await episode.write(max_tokens=3)
        written = await episode.write(by="short")
        assert written is not None
        assert episode.complete
        assert not await episode.act()
        played = episode.finish()
    row = played.rows[0]
    assert partner.rows[0] == row.token_ids[: len(row) - len(written.token_ids)].tolist()
    assert [(int(s.origin), s.policy) for s in row.segments[1:]] == [
        (Origin.MODEL, "policy"),
        (Origin.OBSERVATION, "short"),
    ]
    assert row.n_sampled == played.n_sampled == 3
    assert not row.mask[-len(written.token_ids) :].any()
    assert played.messages[-1].content == "<think>hmso <answer>4</answer>"
    assert played.rewards == {"env": 1.0}
    assert from_line(to_line(played)).rows[0].segments[2].policy == "short"


async def test_the_policy_may_be_its_own_partner(world: Any) -> None:
    policy = world.turns("no")
    parts = world.parts(policy, partners={"self": policy})
    async with Episodes(parts, seed=1).live(world.task, 0, CTX) as episode:
        await episode.write(by="self")
        await episode.act()
        played = episode.finish()
    assert (played.n_sampled, played.messages[-1].content) == (0, "no")


async def test_an_unknown_partner_is_the_users_fault(world: Any) -> None:
    async with Episodes(world.parts(world.turns("no")), seed=1).live(world.task, 0, CTX) as one:
        with pytest.raises(UserError, match="a partner 'short'"):
            await one.write(by="short")


def partners(*words: str) -> dict[str, Any]:
    config = compose(["env=retool_math", *words])
    make_env = setup.env_factory(config.env)
    chat = setup.open_chat(config, make_env())
    engine = ScriptedEngine(lambda ids, sampling, request: "")
    made = setup.make_parts(config, chat, make_env, engine, 1.0).partners
    assert made["self"] is engine
    return {role: partner for role, partner in made.items() if role != "self"}


def test_partners_come_from_the_configuration(tmp_path: Path) -> None:
    nano = Path(agentrl.__file__).parent / "_assets" / "nano"
    assert partners() == {}
    made = partners(f"rollout.partners.short.model={nano}", "rollout.partners.long.name=self")
    assert type(made["short"]).__name__ == "TransformersEngine"
    assert isinstance(made["long"], ScriptedEngine)
    with pytest.raises(UserError, match="another name"):
        partners("rollout.partners.self.model=nano")


class Foreign:
    """A tokenizer of one id more."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.vocab_size = inner, inner.vocab_size + 1

    def encode(self, text: str) -> list[int]:
        return self.inner.encode(text)


def test_a_partner_of_another_vocabulary_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real, loaded = setup.load_tokenizer, list[str]()

    def second_time(path: str) -> Any:
        loaded.append(path)
        return real(path) if len(loaded) == 1 else Foreign(real(path))

    monkeypatch.setattr(setup, "load_tokenizer", second_time)
    with pytest.raises(UserError, match="another vocabulary"):
        partners("rollout.partners.short.model=nano")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("rollout.plan.name=long_short",), "no role of that name"),
        (("rollout.plan.name=sample",), "their roles: none"),
    ],
)
def test_a_partner_without_a_role_is_refused(words: tuple[str, ...], message: str) -> None:
    config = compose(["env=retool_math", *words, "rollout.partners.medium.name=self"])
    plan = build("plan", config.rollout.plan, group_size=2)
    with pytest.raises(UserError, match=message):
        check_partners(config, plan, RetoolMath())
    if config.rollout.plan.name == "long_short":
        fits = compose(["env=retool_math", *words, "rollout.partners.short.name=self"])
        check_partners(fits, plan, RetoolMath())


def test_a_role_of_the_environment_needs_a_partner() -> None:
    plan = build("plan", Plugin(name="sample"), group_size=2)
    asking = RetoolMath()
    asking.partners = ("solver",)
    lonely = compose(["env=retool_math"])
    with pytest.raises(UserError, match=r"rollout.partners.solver.model=.* or .*name=self"):
        check_partners(lonely, plan, asking)
    check_partners(compose(["env=retool_math", "rollout.partners.solver.name=self"]), plan, asking)
