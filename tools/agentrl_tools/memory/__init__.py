"""Memory: a bank that lives for one trajectory (Memory-R1), and lessons that outlive them (ATLAS)."""

from __future__ import annotations

from agentrl_tools.memory.bank import Bounds, Entry, MemoryBank
from agentrl_tools.memory.learning_tool import LearningMemoryTool
from agentrl_tools.memory.lessons import LearningMemory, Lesson
from agentrl_tools.memory.operations import Applied, Operation, apply, parse_operations
from agentrl_tools.memory.tool import MemoryTool

__all__ = [
    "Applied",
    "Bounds",
    "Entry",
    "LearningMemory",
    "LearningMemoryTool",
    "Lesson",
    "MemoryBank",
    "MemoryTool",
    "Operation",
    "apply",
    "parse_operations",
]
