"""RL of Thoughts: a navigator over logic blocks (arXiv:2505.14140)."""

from __future__ import annotations

from agentrl_envs.rlot.env import Rlot

__all__ = ["Rlot"]
