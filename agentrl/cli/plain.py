"""Text from elsewhere on a terminal."""

from __future__ import annotations

KEPT = "\n\t"


def plain(text: str) -> str:
    """Text without the control characters that would steer a terminal."""
    return "".join(c if c.isprintable() or c in KEPT else f"\\x{ord(c):02x}" for c in text)


__all__ = ["plain"]
