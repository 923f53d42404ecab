"""Where the first-party back ends are known to leak, and why; cases name these."""

from __future__ import annotations

from agentrl.testing.sandbox_cases.case import Leak

NAMES_SHOW = Leak(
    "Landlock guards what files hold, not whether a name exists", ("local",), ("lite", "minimal")
)
HOST_NAME_SHOWS = Leak(
    "without a UTS namespace the machine's name shows", ("local",), ("lite", "minimal")
)
FILES_READABLE = Leak(
    "the system-call filter alone keeps no file from being read", ("local",), ("minimal",)
)
FILES_WRITABLE = Leak(
    "the system-call filter alone keeps no file from being written that the user may write",
    ("local",),
    ("minimal",),
)
OWN_FILES_READABLE = Leak(
    "the system-call filter alone keeps no private file of the session's user from being read",
    ("local",),
    ("minimal",),
    ("root", "ordinary"),
)
LINKS_RACED = Leak(
    "the system-call filter alone lets links be swapped while they are followed",
    ("local",),
    ("minimal",),
    certain=False,
)
PROCESSES_OPEN = Leak(
    "the system-call filter alone leaves an ordinary user's processes open through /proc",
    ("local",),
    ("minimal",),
    ("ordinary",),
)
ROOTS_FILES = Leak(
    "the system-call filter alone leaves root all files of the system",
    ("local",),
    ("minimal",),
    ("root",),
)
NOTEBOOK_LOOP = Leak("a notebook kernel's own event loop runs around every cell", ("jupyter",))
NOTEBOOK_HOOK = Leak("IPython has its own excepthook in place while a cell runs", ("jupyter",))
