"""Seeds derived from names, never from clocks or arrival order.

Siblings share the environment's seed; sampling seeds differ as
H(run, step, task, sibling, turn, branch).
"""

from __future__ import annotations

from hashlib import blake2b


def derive(*parts: int | str) -> int:
    """A seed in [0, 2**63) that depends on every part and on their order."""
    text = "\x1f".join(f"{type(part).__name__[0]}{part}" for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
