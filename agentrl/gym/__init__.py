"""Both directions of Gymnasium: our environments for its users, its environments for our models.

    gymnasium.make("agentrl.gym:agentrl/retool_math-v0")   action: the model's text
    agentrl train env=gym env.id=FrozenLake-v1             any text, discrete or box gymnasium.Env

Importing this package registers every installed environment as `agentrl/<name>-v0`; Gymnasium's
`module:id` form does that import by itself.
"""

from __future__ import annotations

import gymnasium

from agentrl.gym.agent_env import AgentEnv
from agentrl.gym.gym_env import GymEnv, gym_env
from agentrl.gym.text_space import UnicodeText
from agentrl.registry import names


def register_envs() -> None:
    """Make every environment that `agentrl list env` shows known to Gymnasium. Idempotent."""
    for name in names("env"):
        env_id = f"agentrl/{name}-v0"
        if name != "gym" and env_id not in gymnasium.registry:
            gymnasium.register(env_id, "agentrl.gym:AgentEnv", kwargs={"name": name})


register_envs()

__all__ = ["AgentEnv", "GymEnv", "UnicodeText", "gym_env", "register_envs"]
