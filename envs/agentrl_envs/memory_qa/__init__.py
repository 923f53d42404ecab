"""memory_qa: dialogues over several sessions, a memory between them, and a question at the end."""

from __future__ import annotations

from agentrl_envs.memory_qa.env import MemoryQA

__all__ = ["MemoryQA"]
