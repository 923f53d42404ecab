"""Chains of maths problems (R-HORIZON, arXiv:2510.08189)."""

from __future__ import annotations

from agentrl_envs.horizon.env import Horizon

__all__ = ["Horizon"]
