"""The three channels of a session: stdout, stderr, and the one for orders and answers."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from agentrl.errors import SandboxError


@dataclass(frozen=True, slots=True)
class Ends:
    """Both ends of a session's three channels; the far ones go to the zygote."""

    control: socket.socket
    out: int
    err: int
    far: tuple[int, int, int]
    far_control: socket.socket

    @classmethod
    def make(cls) -> Ends:
        """Two pipes and a socket pair. Raises OSError when descriptors have run out."""
        control, far_control = socket.socketpair()
        out, far_out = os.pipe()
        err, far_err = os.pipe()
        control.setblocking(False)
        for fd in (out, err):
            os.set_blocking(fd, False)
        return cls(control, out, err, (far_out, far_err, far_control.fileno()), far_control)

    def close_far(self) -> None:
        """Our copies of what the child has; without this its death would not show as EOF."""
        self.far_control.close()
        os.close(self.far[0])
        os.close(self.far[1])

    def close_near(self) -> None:
        """The ends that we read."""
        self.control.close()
        os.close(self.out)
        os.close(self.err)


def make_ends(count: int) -> list[Ends]:
    """Channels for that many sessions. Raises SandboxError when descriptors have run out."""
    made: list[Ends] = []
    try:
        for _ in range(count):
            made.append(Ends.make())
    except OSError as error:
        for ends in made:
            ends.close_far()
            ends.close_near()
        raise SandboxError(f"no descriptors left for another session: {error}") from error
    return made
