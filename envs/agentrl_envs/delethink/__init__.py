"""Long computations thought in short contexts."""

from __future__ import annotations

from agentrl_envs.delethink.env import Delethink

__all__ = ["Delethink"]
