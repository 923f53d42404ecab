"""Discussions of several agents."""

from __future__ import annotations

from agentrl_envs.discussion.env import Discussion

__all__ = ["Discussion"]
