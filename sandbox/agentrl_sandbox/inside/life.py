"""A session child, from its fork to its end."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import NoReturn

from agentrl_sandbox.inside import confine, wire
from agentrl_sandbox.inside.cell import Interpreter
from agentrl_sandbox.inside.plan import Plan


def live(
    plan: Plan, quarters: confine.Quarters, descriptors: list[int], base_mb: float
) -> NoReturn:
    """Put up the fence, say so, and run cells until the trusted side hangs up.

    `descriptors`: stdout, stderr, control, nursery and, where there are any, the Landlock rules.
    """
    try:
        confine.take_descriptors(*descriptors)
        control = socket.socket(fileno=confine.CONTROL_FD)
        try:
            os.setsid()
            confine.settle(quarters.work)
            with socket.socket(fileno=confine.NURSERY_FD) as nursery:
                confine.put_up(plan, quarters, base_mb, nursery)
        except Exception as error:  # noqa: BLE001 - whatever failed, the fence does not stand
            why = wire.encode(f"{type(error).__name__}: {error}")[: wire.MAX_ERROR_BYTES]
            control.sendall(wire.reply(wire.NO_NONCE, wire.UNFIT, None, why))
            os._exit(1)
        Interpreter(control, plan.value_bytes, quarters.work, plan.namespaces).serve()
    finally:
        os._exit(0)


def be_first_to_go(proc: int) -> None:
    """When memory runs out, of a session and its zygote the session is to be taken.

    `proc`: descriptor of a /proc, -1: there is none.
    """
    if proc >= 0:
        with contextlib.suppress(OSError):
            fd = os.open("self/oom_score_adj", os.O_WRONLY, dir_fd=proc)
            os.write(fd, b"1000")
