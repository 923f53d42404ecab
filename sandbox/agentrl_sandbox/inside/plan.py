"""What the trusted side orders and the launcher obeys; travels as one line of JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """How sessions of one zygote are confined."""

    level: str
    """An isolation level of the contract: `standard`, `lite`, `minimal` or `none`."""
    memory_mb: int
    disk_mb: int
    open_files: int
    value_bytes: int
    """Longest echoed value."""
    processes: int = 64
    """Threads that one session may have, where it has a user of its own."""
    cgroups: tuple[str, ...] = ()
    """Folders of this machine for the launcher to remove when the zygote is dead."""
    warm: bool = True
    """Import and exercise numpy and sympy before the first fork."""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Inverse of `to_json`."""
        data = json.loads(text)
        data["cgroups"] = tuple(data["cgroups"])
        return cls(**data)

    @property
    def namespaces(self) -> bool:
        """Whether sessions live in namespaces and a private file tree."""
        return self.level in ("standard", "strong")

    @property
    def filtered(self) -> bool:
        """Whether system calls are filtered and privileges dropped."""
        return self.level != "none"

    @property
    def landlocked(self) -> bool:
        """Whether Landlock is what keeps files apart (with namespaces it is a second fence)."""
        return self.level == "lite"
