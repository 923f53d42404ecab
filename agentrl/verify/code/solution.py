"""The solution's side of grading: defines a function and calls it, one case at a time.

Loaded as source into a session of its own, which gets arguments and nothing else. All that it says
is a claim by the process that runs the solution. Imports the standard library, `literals` and
`mailbox` alone.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from agentrl.verify.code.literals import decode, encode
from agentrl.verify.code.mailbox import Mailbox, Text, fresh_module, message_of, run_helpers

_loads, _print_exit = json.loads, SystemExit


class Solution:
    """The code under test, in its own session."""

    def __init__(self) -> None:
        self.mail = Mailbox()
        self._call: Callable[..., object] | None = None

    def define(self, nonce: str, sources: str, entry_point: str) -> Text:
        """Run the pieces of a module; its function `entry_point` is what `call` calls.

        A piece that is followed by another one need not be Python: prompts may be prose.
        """
        module = fresh_module("solution")
        *before, last = _loads(sources)
        for prompt in before:
            run_helpers(prompt, module.__dict__)
        exec(compile(last, "solution.py", "exec"), module.__dict__)
        target: Any = module
        for name in entry_point.split("."):
            # `Solution.method`: a method is called on an object made without arguments.
            target = getattr(target() if isinstance(target, type) else target, name)
        self._call = target
        return self.mail.post(nonce, defined=True)

    def call(self, nonce: str, arguments: str, show: bool) -> Text:
        """Call the function with encoded `[args, kwargs]`; `show` tells the arguments afterwards.

        Answers `returned`, or `raised` (built-in kind, message), or `unsaid` (why the value cannot
        be told).
        """
        assert self._call is not None
        args, kwargs = decode(_loads(arguments))
        try:
            value = self._call(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - whatever it raises is its answer
            return self.mail.post(nonce, raised=[_builtin_kind(error), message_of(error)])
        try:
            told: dict[str, Any] = {"returned": encode(value)}
            if show:
                told["arguments"] = encode([args, kwargs])
        except BaseException as error:  # noqa: BLE001 - a lazy value runs model code here
            return self.mail.post(nonce, unsaid=message_of(error))
        return self.mail.post(nonce, **told)

    def program(self, source: str, stdin: str) -> None:
        """Run `source` as a program that reads `stdin`; `sys.exit(0)` is an ordinary end."""
        with tempfile.TemporaryFile() as file:
            file.write(stdin.encode("utf-8", "surrogatepass"))
            file.seek(0)
            os.dup2(file.fileno(), 0)
        raw = io.BufferedReader(io.FileIO(0, closefd=False))
        sys.stdin = io.TextIOWrapper(raw, "utf-8", "surrogateescape")
        module = fresh_module("__main__")
        try:
            exec(compile(source, "solution.py", "exec"), module.__dict__)
        except _print_exit as error:
            if error.code not in (None, 0):
                raise


def _builtin_kind(error: BaseException) -> str:
    """The nearest built-in class of an exception, by name."""
    for kind in type(error).__mro__:
        if getattr(builtins, kind.__name__, None) is kind:
            return kind.__name__
    return "Exception"


__all__ = ["Solution"]
