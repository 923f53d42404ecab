"""Logic puzzles after SynLogic (arXiv:2505.19641)."""

from __future__ import annotations

from agentrl_envs.logic.env import Logic

__all__ = ["Logic"]
