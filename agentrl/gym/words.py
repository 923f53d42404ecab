"""Observations and actions of Gymnasium spaces in words."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from random import Random
from typing import Any, TypeAlias, cast

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from agentrl.errors import UserError

Bounds: TypeAlias = "npt.NDArray[np.float64]"

WIDE = 1e6
"""A bound of a box beyond this counts as none."""

TEXTS = ("Text", "UnicodeText")
"""Spaces whose actions are text themselves."""


def plain(value: object) -> object:
    """An observation as JSON values; floats to four digits."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in cast(Mapping[object, object], value).items()}
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in cast(list[object], value)]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(cast(Any, value).tolist())
    return float(f"{value:.4g}") if isinstance(value, float) else value


def expects(space: gymnasium.Space[Any] | None) -> str:
    """What may be written for a space. Raises UserError for a kind that text cannot steer."""
    if isinstance(space, spaces.Discrete):
        first, last = int(space.start), int(space.start) + int(space.n) - 1
        return f"an integer from {first} to {last}"
    if isinstance(space, spaces.Box):
        low, high = float(space.low.min()), float(space.high.max())
        shape = "x".join(str(n) for n in space.shape) or "one"
        return f"a JSON list of {shape} numbers from {low:g} to {high:g}"
    if space is not None and type(space).__name__ in TEXTS:
        return "text"
    raise UserError(
        f"env=gym takes discrete, box and text action spaces, not {type(space).__name__}; "
        "wrap the environment in a gymnasium.ActionWrapper"
    )


def read(space: gymnasium.Space[Any], text: str) -> object | None:
    """The action written, or None when it does not fit the space."""
    text = text.strip()
    if isinstance(space, spaces.Discrete):
        number = int(text) if re.fullmatch(r"[+-]?\d{1,9}", text) else None
        return np.int64(number) if number is not None and space.contains(number) else None
    if not isinstance(space, spaces.Box):
        return text if space.contains(text) else None
    try:
        values: npt.NDArray[Any] = np.array(json.loads(text), dtype=np.float64)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    if values.size != math.prod(space.shape):
        return None
    move = values.reshape(space.shape).astype(cast(Any, space.dtype))
    return move if space.contains(move) else None


def random_action(space: gymnasium.Space[Any], rng: Random) -> str:
    """An action of the space, written, uniform where the space is bounded."""
    if isinstance(space, spaces.Discrete):
        return str(int(space.start) + rng.randrange(int(space.n)))
    if isinstance(space, spaces.Box):
        lows, highs = _listed(cast(Bounds, space.low)), _listed(cast(Bounds, space.high))
        drawn = [_between(low, high, rng) for low, high in zip(lows, highs, strict=True)]
        whole = np.issubdtype(cast(Any, space.dtype), np.integer)
        return json.dumps([int(x) for x in drawn] if whole else drawn)
    if isinstance(space, spaces.Text):
        n = rng.randint(space.min_length, min(space.max_length, space.min_length + 16))
        return "".join(rng.choices(sorted(space.character_set), k=n))
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz ", k=8))


def _listed(bounds: Bounds) -> list[float]:
    return [float(bound) for bound in bounds.astype(np.float64).ravel()]


def _between(low: float, high: float, rng: Random) -> float:
    """A number inside, even after rounding; unbounded sides are cut at one."""
    low, high = (low if low > -WIDE else min(-1.0, high)), (high if high < WIDE else max(1.0, low))
    middle = (low + high) / 2
    return float(f"{middle + (high - low) / 2 * 0.999 * rng.uniform(-1, 1):.6g}")


__all__ = ["expects", "plain", "random_action", "read"]
