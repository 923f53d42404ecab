"""String functions and their compositions (arXiv:2509.25123)."""

from __future__ import annotations

from agentrl_envs.compose.env import Compose

__all__ = ["Compose"]
