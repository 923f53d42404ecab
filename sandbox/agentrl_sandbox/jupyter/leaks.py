"""What model code can do in a kernel that it cannot do in the `local` sandbox: name -> why.

Tests expect exactly these, strictly: a leak that is stopped some day has to leave this list.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

BUBBLED: Mapping[str, str] = MappingProxyType(
    {
        "forged output": "the kernel's messages are made in the process that runs the code: it can "
        "send any stdout, stderr, value or reply of its own run",
        "broken channel": "the code can write into the sockets of its own kernel; the run then "
        "ends as a timeout and the kernel is lost",
        "many files": "bubblewrap's tmpfs has a size but no limit on the number of entries",
        "unix sockets": "a kernel listens on socket files, so it may make them, for itself alone",
    }
)
"""In bubblewrap (`standard`)."""

UNFENCED: Mapping[str, str] = MappingProxyType(
    {
        **BUBBLED,
        "files": "it reads and writes whatever this user may",
        "network": "it connects wherever this machine may",
        "processes": "it starts and signals processes as this user",
    }
)
"""Without bubblewrap (`none`)."""
