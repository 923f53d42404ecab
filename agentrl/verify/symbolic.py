"""The child process that runs math-verify; started by `worker`, never imported by its parent.

math-verify limits itself with SIGALRM, works on the main thread only and may hang in sympy or in
one long C call. Here its own limits are off; instead two kernel timers with their default action
are set for each request: CPU time ends this process at the deadline, whatever else the machine
does, and real time a little after the parent's patience, even when the parent is gone. One JSON
object per line in, one out.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import TextIO, TypedDict

MEMORY_BYTES = 4 << 30
"""Address space this process may use."""
GRACE_S = 1.0
"""How long after the parent's patience the kernel ends this process."""
OVERRUN = (-signal.SIGPROF, -signal.SIGALRM)
"""Exit codes of a process that its own timers ended."""

Compare = Callable[[str, str], bool | None]


class Request(TypedDict):
    """One comparison."""

    id: int
    gold: str
    prediction: str
    cpu_s: float
    """CPU seconds after which this process ends."""
    wall_s: float
    """Seconds the parent waits."""


class Reply(TypedDict):
    """The answer to the request of the same id; id 0 announces that the process is ready."""

    id: int
    correct: bool | None
    """None when the gold could not be read, or `error` tells what was raised."""
    error: str


def load_math_verify() -> Compare:
    """Import math-verify (about 1.6 s) and return its strict comparison of two answers."""
    logging.disable(logging.CRITICAL)
    # imported by name: the package has no types, and only this process may load it
    math_verify = importlib.import_module("math_verify")
    config = [math_verify.LatexExtractionConfig(boxed_match_priority=0)]

    def read(answer: str) -> list[object]:
        """What math-verify makes of a boxed answer: values, and the text it found them in."""
        found: list[object] = math_verify.parse(
            r"\boxed{" + answer + "}", config, parsing_timeout=None
        )
        return found

    def compare(gold: str, prediction: str) -> bool | None:
        """None when the gold has no value; the prediction is judged strictly."""
        wanted = read(gold) if balanced(gold) else []
        if not any(not isinstance(one, str) for one in wanted):
            return None
        if not balanced(prediction):
            # `5} or {6` would close the box around it and be read as 5
            return False
        given = read(prediction)
        return bool(
            math_verify.verify(
                wanted, given, strict=True, timeout_seconds=None, raise_on_error=True
            )
        )

    return compare


def balanced(text: str) -> bool:
    """Whether every brace, escaped ones aside, is closed after it was opened."""
    depth = 0
    for piece in re.findall(r"\\.|[{}]", text, re.DOTALL):
        depth += (piece == "{") - (piece == "}")
        if depth < 0:
            return False
    return depth == 0


def serve(requests: TextIO, replies: TextIO, compare: Compare) -> None:
    """Answer requests in order until the parent closes its end."""
    for line in requests:
        request: Request = json.loads(line)
        _arm(request["cpu_s"], request["wall_s"] + GRACE_S)
        reply = Reply(id=request["id"], correct=None, error="")
        try:
            reply["correct"] = compare(request["gold"], request["prediction"])
        except Exception as error:  # noqa: BLE001 -- sympy raises anything on a model's text
            reply["error"] = type(error).__name__
        finally:
            _arm(0, 0)
        _send(replies, reply)


def main() -> None:
    """Serve on the inherited stdin and stdout; prints of libraries go nowhere."""
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    _limit_memory()
    try:
        compare = load_math_verify()
        # the parser builds its tables on first use; that belongs to the start, not to a deadline
        compare(r"\frac{1}{2}", "1/2")
    except ImportError as error:
        _send(replies, Reply(id=0, correct=None, error=str(error)))
        return
    _send(replies, Reply(id=0, correct=None, error=""))
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin, replies, compare)


def _arm(cpu_s: float, wall_s: float) -> None:
    """Set both timers; 0 disarms them."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    signal.setitimer(signal.ITIMER_REAL, wall_s)


def _send(replies: TextIO, reply: Reply) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def _limit_memory() -> None:
    """Bound the address space where the system can; a hostile factorial then fails by itself."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        resource = importlib.import_module("resource")
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
