"""The tasks of the reasoning_gym package."""

from __future__ import annotations

from agentrl_envs.reasoning_gym.env import AnsweredReasoningGym, ReasoningGym, reasoning_gym

__all__ = ["AnsweredReasoningGym", "ReasoningGym", "reasoning_gym"]
