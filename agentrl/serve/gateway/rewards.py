"""Rewards as clients post them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from agentrl.serve.gateway.wire import ApiError
from agentrl.types import JsonValue


def read_rewards(body: Mapping[str, JsonValue]) -> dict[str, float]:
    """`reward` as the component `env`, and `components` beside it.

    Raises ApiError for what is no finite number and for a component called `env`.
    """
    rewards = {"env": _finite(body.get("reward"), "reward")}
    further = body.get("components") or {}
    if not isinstance(further, Mapping):
        raise ApiError("components must be an object of numbers", param="components")
    for name, value in further.items():
        if name in rewards:
            raise ApiError("`reward` is the component env", param="components")
        rewards[name] = _finite(value, f"components.{name}")
    return rewards


def _finite(value: JsonValue, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ApiError(f"{name} must be a finite number", param=name)
    return float(value)


__all__ = ["read_rewards"]
