"""Generated maths tasks: fourteen families, each with three levels and disjoint splits."""

from __future__ import annotations

from agentrl_envs.families.arithmetic import Expression, Multiply, SquareRoot
from agentrl_envs.families.base import Family
from agentrl_envs.families.chained import Branch, Chain, Sort
from agentrl_envs.families.head import Add, Max, Parity, Reverse
from agentrl_envs.families.numbers import DigitSum, Gcd, Hexadecimal, PowerMod

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Add(),
        Max(),
        Parity(),
        Reverse(),
        Multiply(),
        Expression(),
        SquareRoot(),
        Gcd(),
        PowerMod(),
        DigitSum(),
        Hexadecimal(),
        Sort(),
        Chain(),
        Branch(),
    )
}
"""Every family by name."""

__all__ = ["FAMILIES", "Family"]
