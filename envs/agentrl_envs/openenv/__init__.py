"""Environments served by OpenEnv (reset and step over a WebSocket)."""

from __future__ import annotations

from agentrl_envs.openenv.env import OpenEnv
from agentrl_envs.openenv.session import OpenEnvFull, OpenEnvLost

__all__ = ["OpenEnv", "OpenEnvFull", "OpenEnvLost"]
