"""The tester's side of grading: runs the trusted test, whose calls go to the other session.

Loaded as source into a session of its own, which has no line of the solution. Imports the standard
library, `literals` and `mailbox` alone.
"""

from __future__ import annotations

import builtins
import json
import queue
import random
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from agentrl.verify.code.literals import decode, encode
from agentrl.verify.code.mailbox import Mailbox, Text, fresh_module, message_of, run_helpers

_STACK_BYTES = 8 << 20
_loads = json.loads


class _Asked(NamedTuple):
    """A call of the solution by the test."""

    arguments: list[Any]


class _Ended(NamedTuple):
    """The end of the test."""

    outcome: dict[str, Any]


class Tester:
    """The trusted test, in its own session; it runs in a thread and waits for each answer."""

    def __init__(self) -> None:
        self.mail = Mailbox()
        self._events: queue.SimpleQueue[_Asked | _Ended] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._unsayable = ""
        self._thread = threading.get_ident()

    def start(self, nonce: str, prompt: str, test: str, entry_point: str, seed: int) -> Text:
        """Begin; answers like `answer`.

        `prompt` is run first where it is Python, for the helpers it defines; the name of the entry
        point then stands for the solution. A `check(candidate)` defined by `test` is called.
        """
        random.seed(seed)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(seed % 2**32)
        threading.stack_size(_STACK_BYTES)
        body = threading.Thread(
            target=self._body, args=(prompt, test, entry_point), daemon=True, name="test"
        )
        body.start()
        return self._next(nonce)

    def answer(self, nonce: str, reply: str) -> Text:
        """Hand over the solution's reply; answers with the next `call`, or with the outcome."""
        self._answers.put(_loads(reply))
        return self._next(nonce)

    def _next(self, nonce: str) -> Text:
        event = self._events.get()
        if isinstance(event, _Ended):
            return self.mail.post(nonce, **event.outcome)
        return self.mail.post(nonce, call=event.arguments)

    def _body(self, prompt: str, test: str, entry_point: str) -> None:
        self._thread = threading.get_ident()
        calls = 0

        def candidate(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            return self._ask(args, kwargs)

        candidate.__name__ = entry_point
        try:
            self._run(prompt, test, entry_point, candidate)
            if self._unsayable:
                raise Unsayable(self._unsayable)
            outcome: dict[str, Any] = {"passed": True, "calls": calls}
        except Unsayable as error:
            outcome = {"unsayable": str(error)}
        except BaseException as error:  # noqa: BLE001 - whatever the test raises fails it
            outcome = {"failed": message_of(error), "calls": calls}
        self._events.put(_Ended(outcome))

    def _run(self, prompt: str, test: str, entry_point: str, candidate: Callable[..., Any]) -> None:
        namespace = fresh_module("tests").__dict__
        run_helpers(prompt, namespace)
        namespace[entry_point] = candidate
        exec(compile(test, "test.py", "exec"), namespace)
        check = namespace.get("check")
        if callable(check):
            check(candidate)

    def _ask(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            self._unsayable = "the test calls the solution from a thread of its own"
            raise Unsayable(self._unsayable)
        try:
            arguments = encode([list(args), kwargs])
        except TypeError as error:
            raise Unsayable(f"the test passes an argument that cannot be told: {error}") from error
        self._events.put(_Asked(arguments))
        reply = self._answers.get()
        if "raised" in reply:
            kind, message = reply["raised"]
            raise _exception(str(kind), str(message))
        if "arguments" in reply:
            after_args, after_kwargs = decode(reply["arguments"])
            for before, after in zip(args, after_args, strict=True):
                _become(before, after)
            for name, before in kwargs.items():
                _become(before, after_kwargs[name])
        return decode(reply["returned"])


class Unsayable(BaseException):
    """The test does something that cannot be carried over to another process."""


def _exception(kind: str, message: str) -> Exception:
    """An exception of a built-in class; what is none of an ordinary kind becomes a RuntimeError."""
    found = getattr(builtins, kind, None)
    text = message.removeprefix(f"{kind}: ")
    if isinstance(found, type) and issubclass(found, Exception):
        try:
            return found(text)
        except TypeError:
            pass
    return RuntimeError(message)


def _become(before: Any, after: Any) -> None:
    """Change a container in place into what the solution made of its copy, keeping inner objects
    where they correspond."""
    if type(before) is not type(after) or before is after:
        return
    if isinstance(before, list):
        mine, theirs = cast(list[Any], before), cast(list[Any], after)
        both = zip(mine, theirs, strict=False)
        mine[:] = [_merged(a, b) for a, b in both] + theirs[len(mine) :]
    elif isinstance(before, dict):
        mine, theirs = cast(dict[Any, Any], before), cast(dict[Any, Any], after)
        kept = {key: _merged(mine.get(key), item) for key, item in theirs.items()}
        mine.clear()
        mine.update(kept)
    elif isinstance(before, set):
        container = cast(set[Any], before)
        container.clear()
        container.update(after)
    elif isinstance(before, bytearray):
        before[:] = after


def _merged(before: Any, after: Any) -> Any:
    if type(before) is type(after) and isinstance(before, list | dict | set | bytearray):
        _become(before, after)
        return cast(Any, before)
    return after


__all__ = ["Tester", "Unsayable"]
