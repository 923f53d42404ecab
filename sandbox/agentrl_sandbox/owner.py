"""Whose a container or a folder is, so that a later run can sweep what the dead have left."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MARK = "agentrl.sandbox"
"""Label of every container of this back end."""


@dataclass(frozen=True, slots=True)
class Owner:
    """One process of one machine, told apart from later ones with the same number."""

    boot: str
    """This boot of the machine, and the pid namespace in which `pid` means something."""
    pid: int
    started: str
    """Clock ticks between boot and the start of the process."""

    @classmethod
    def me(cls) -> Owner:
        """This process."""
        return cls(_boot(), os.getpid(), _started(os.getpid()))

    def labels(self) -> dict[str, str]:
        """To put on a container."""
        return {
            MARK: "1",
            "agentrl.boot": self.boot,
            "agentrl.pid": str(self.pid),
            "agentrl.started": self.started,
        }

    @classmethod
    def from_labels(cls, labels: Mapping[str, str]) -> Owner | None:
        """Inverse of `labels`; None when they are not complete."""
        pid = labels.get("agentrl.pid", "")
        if MARK not in labels or not pid.isdigit():
            return None
        return cls(labels.get("agentrl.boot", ""), int(pid), labels.get("agentrl.started", ""))

    def is_gone(self) -> bool | None:
        """Whether the process has ended; None when it is none of this machine's, now."""
        if self.boot != _boot():
            return None
        return _started(self.pid) != self.started


def _boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Empty when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
