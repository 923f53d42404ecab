"""Grading code: the solution and its test never share a process."""

from __future__ import annotations

from agentrl.verify.code.compare import same_output, same_value
from agentrl.verify.code.forms import (
    FunctionCase,
    FunctionCases,
    ProgramCase,
    ProgramCases,
    Suite,
    Tests,
    tests_of,
)
from agentrl.verify.code.grading import Grade, GradeLimits, Grader
from agentrl.verify.code.literals import decode, encode

__all__ = [
    "FunctionCase",
    "FunctionCases",
    "Grade",
    "GradeLimits",
    "Grader",
    "ProgramCase",
    "ProgramCases",
    "Suite",
    "Tests",
    "decode",
    "encode",
    "same_output",
    "same_value",
    "tests_of",
]
