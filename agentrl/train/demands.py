"""What the chosen plug-ins need of one another, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agentrl.config import RunConfig
from agentrl.env import Env, Expert, may_lease
from agentrl.errors import UserError
from agentrl.points import Need, RolloutPlan, needs_of
from agentrl.registry import resolve

REMEDY: Mapping[Need, str] = {
    "reference": "learner.reference=true",
    "teacher": "learner.teacher=<a model with the same vocabulary>",
    "critic": "learner.critic={trunk: separate}, or an advantage without one such as "
    "algo.advantage.name=outcome",
    "scorer": "a learner that scores rows (learner=torch)",
    "judge": "algo.judge={name: openai, base_url: ..., model: ...}",
    "expert": "an env with an expert, or no gate that diverts to `sft`",
    "demonstrations": "algo.demos.queue=<diverted tasks that trigger a supervised step>",
    "replay": "algo.replay.capacity=<groups to keep>",
    "sandbox": "an env with tools, whose sandbox rewards share",
}
"""What to set so that a need is met."""


ARTICLE: Mapping[str, str] = {"expert": "an ", "demonstrations": "", "replay": ""}
"""Before a need's name; `a` unless named here."""


def check_engine_trains(config: RunConfig) -> None:
    """Raise UserError for an engine whose weights nobody here can change."""
    if not getattr(resolve("engine", config.engine.name), "trains", True):
        raise UserError(
            f"engine={config.engine.name} cannot be trained; use engine=transformers or engine=vllm, "
            "or measure it with agentrl eval"
        )


def check_demands(config: RunConfig, env: Env, plugins: Mapping[str, object]) -> None:
    """Raise UserError for the first plug-in, by what it is called, whose needs are not met."""
    provided = provides(config, env)
    for called, plugin in plugins.items():
        for need in sorted(needs_of(plugin) - provided):
            raise UserError(f"{called} needs {ARTICLE.get(need, 'a ')}{need}: set {REMEDY[need]}")
    _check_pairs(config, plugins.values())


def provides(config: RunConfig, env: Env) -> frozenset[Need]:
    """What this configuration has to offer."""
    learner = config.learner.given
    found: dict[Need, bool] = {
        "reference": bool(learner.get("reference")),
        "teacher": learner.get("teacher") is not None,
        "critic": learner.get("critic") is not None,
        "scorer": True,
        "judge": config.algo.judge is not None,
        "expert": isinstance(env, Expert),
        "demonstrations": config.algo.demos.queue > 0,
        "replay": config.algo.replay.capacity > 0,
        "sandbox": may_lease(env),
    }
    return frozenset(need for need, there in found.items() if there)


def check_partners(config: RunConfig, plan: RolloutPlan, env: Env) -> None:
    """Raise UserError for a partner without a role, and for an environment's role without one."""
    own: frozenset[str] = getattr(plan, "roles", frozenset())
    roles = own | frozenset(env.partners)
    for role in config.rollout.partners:
        if role not in roles:
            known = ", ".join(sorted(roles)) or "none"
            raise UserError(
                f"rollout.partners.{role} would do nothing: rollout.plan={config.rollout.plan.name} and "
                f"env={config.env.name} have no role of that name (their roles: {known})"
            )
    check_env_partners(config, env)


def check_env_partners(config: RunConfig, env: Env) -> None:
    """Raise UserError when nobody is there to write for a role of the environment."""
    for role in env.partners:
        if role not in config.rollout.partners:
            raise UserError(
                f"env={config.env.name} lets a partner {role!r} write; set "
                f"rollout.partners.{role}.model=<a model with the same vocabulary>, or "
                f"rollout.partners.{role}.name=self for the policy itself, untrained in that role"
            )


def _check_pairs(config: RunConfig, plugins: Iterable[object]) -> None:
    """Settings that are each right and wrong together."""
    algo = config.algo
    needed = frozenset(need for plugin in plugins for need in needs_of(plugin))
    if config.learner.given.get("critic") is not None and "critic" not in needed:
        raise UserError(
            f"learner.critic is set, but algo.advantage={algo.advantage.name} teaches no critic; set "
            "algo.advantage.name=gae, or leave learner.critic out"
        )
    if algo.reward_kl.target is not None and not algo.reward_kl.coef:
        raise UserError("algo.reward_kl.target steers a coefficient; give algo.reward_kl.coef too")
    if algo.demos.lr is not None and not algo.demos.queue:
        raise UserError("algo.demos.lr needs algo.demos.queue=<tasks that trigger a step>")


__all__ = [
    "REMEDY",
    "check_demands",
    "check_engine_trains",
    "check_env_partners",
    "check_partners",
    "provides",
]
