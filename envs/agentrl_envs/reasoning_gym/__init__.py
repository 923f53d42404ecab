"""The tasks of the reasoning_gym package."""

from __future__ import annotations

from agentrl_envs.reasoning_gym.env import ReasoningGym

__all__ = ["ReasoningGym"]
