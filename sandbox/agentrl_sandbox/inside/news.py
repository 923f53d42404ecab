"""What a zygote tells the trusted side; each travels as one line of JSON."""

from __future__ import annotations

from typing import Literal, TypeAlias, TypedDict


class Ready(TypedDict):
    """Warm: from now on sessions can be forked."""

    op: Literal["ready"]
    threads: int
    uid: int | None
    """First user id of the sessions; None when all run as the zygote's own user."""


class Forked(TypedDict):
    """A session child lives; its pidfd comes along where the kernel has one."""

    op: Literal["forked"]
    session: int
    pid: int
    work: str
    """The folder that it fills; empty where the session mounts one that only it can see."""


class Split(TypedDict):
    """Another zygote lives; its pidfd comes along."""

    op: Literal["split"]


class Armed(TypedDict):
    """A session may now make the copies that were ordered."""

    op: Literal["armed"]
    session: int


class Born(TypedDict):
    """A copy has shown itself; its pidfd comes along."""

    op: Literal["born"]
    session: int
    pid: int
    work: str
    """Its work folder as it sees it."""


class Fit(TypedDict):
    """The fence of a copy stands."""

    op: Literal["fit"]
    session: int


class Refused(TypedDict):
    """No child could be forked, or no copies can be made."""

    op: Literal["refused"]
    session: int
    why: str


class Ended(TypedDict):
    """A session child was reaped."""

    op: Literal["exit"]
    session: int
    status: int
    """As `os.wait4` gives it."""
    cpu_s: float
    peak: int
    """`ru_maxrss`: KiB on Linux."""


Answer: TypeAlias = Ready | Forked | Split | Armed | Refused
"""What is waited for after a start or an order."""

News: TypeAlias = Answer | Born | Fit | Ended
