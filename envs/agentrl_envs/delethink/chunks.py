"""The arithmetic of chunks: how much may be written, and what of it is carried over.

Delethink (The Markovian Thinker, arXiv 2510.06557): a context holds the query and C units of the
response. When it is full the next one begins with the query, the first `keep_head` and the last
`carry - keep_head` units written so far, and has room for C - carry new ones; I contexts at most,
so C + (I - 1) (C - carry) units in all. Units here are characters, as an environment sees no tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.errors import UserError


@dataclass(frozen=True, slots=True)
class Chunks:
    """Sizes in characters."""

    size: int
    """C: what a context holds of the response."""
    carry: int
    """m: how much of it comes from the contexts before."""
    keep_head: int = 0
    """How much of `carry` is the response's first."""
    count: int = 5
    """I: contexts at most."""

    def __post_init__(self) -> None:
        if not 0 <= self.keep_head < self.carry < self.size:
            raise UserError(
                "delethink needs 0 <= env.keep_head < env.carry < env.chunk, not "
                f"keep_head={self.keep_head} carry={self.carry} chunk={self.size}"
            )
        if self.count < 1:
            raise UserError(f"env.chunks is at least 1, not {self.count}")

    @property
    def budget(self) -> int:
        """The longest response."""
        return self.size + (self.count - 1) * (self.size - self.carry)

    def carried(self, response: str) -> str:
        """What the next context is given of the response so far."""
        if len(response) <= self.carry:
            return response
        tail = self.carry - self.keep_head
        return response[: self.keep_head] + response[-tail:]

    def room(self, response: str) -> int:
        """How much may be written in a context that begins after `response`."""
        return self.size - len(self.carried(response))


__all__ = ["Chunks"]
