"""Environments of the verifiers library, played by its own rollout in a process of its own."""

from __future__ import annotations

from agentrl_envs.verifiers.client import WorkerLost
from agentrl_envs.verifiers.env import Verifiers

__all__ = ["Verifiers", "WorkerLost"]
