"""What runs inside a sandbox session while code is graded; loaded there as source.

In the solution's session `Solution` defines a function and calls it, one case at a time; in the
tester's session `Tester` runs the trusted test, whose every call of the function is carried over to
the other session. Neither ever holds what the other one must not see: the tester has no line of the
solution, the solution gets arguments and nothing else. All that `Solution` says is a claim by
the process that runs the solution. Imports the standard library and `literals` alone.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import queue
import random
import sys
import tempfile
import threading
import types
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from agentrl.verify.code.literals import decode, encode

PART_CHARS = 12_000
"""Characters of one reply; longer ones are fetched in parts."""
MAX_CHARS = 2_000_000
"""Of one value as JSON."""
_MESSAGE_CHARS = 500
_STACK_BYTES = 8 << 20
_dumps, _loads, _print_exit = json.dumps, json.loads, SystemExit


class Text(str):
    """A string that the interpreter echoes as it is."""

    def __repr__(self) -> str:
        return str(self)


CANARY = Text("x" * PART_CHARS)
"""What a session must be able to echo in full."""


class Mailbox:
    """Replies, cut into parts that a session's output limit lets through."""

    def __init__(self) -> None:
        self._text = ""

    def post(self, nonce: str, **content: Any) -> Text:
        """The reply, or a note on how many parts it has."""
        self._text = _dumps({"nonce": nonce, **content})
        if len(self._text) > MAX_CHARS:
            self._text = _dumps({"nonce": nonce, "unsaid": "a value too large to be told"})
        if len(self._text) <= PART_CHARS:
            return Text(self._text)
        return Text(_dumps({"nonce": nonce, "parts": -(-len(self._text) // PART_CHARS)}))

    def part(self, index: int) -> Text:
        """One part of the last reply."""
        return Text(self._text[index * PART_CHARS : (index + 1) * PART_CHARS])


def _message(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:_MESSAGE_CHARS]
    except BaseException:  # noqa: BLE001 - the exception's own __str__ is model code
        return type(error).__name__


def _builtin_kind(error: BaseException) -> str:
    """The nearest built-in class of an exception, by name."""
    for kind in type(error).__mro__:
        if getattr(builtins, kind.__name__, None) is kind:
            return kind.__name__
    return "Exception"


def _module(name: str) -> types.ModuleType:
    """A module that classes defined in it can be looked up in."""
    module = sys.modules[name] = types.ModuleType(name)
    return module


def _run_helpers(prompt: str, namespace: dict[str, Any]) -> None:
    """Run a prompt where it is Python."""
    try:
        helpers = compile(prompt, "prompt.py", "exec")
    except (SyntaxError, ValueError):
        return
    exec(helpers, namespace)


class Solution:
    """The code under test, in its own session."""

    def __init__(self) -> None:
        self.mail = Mailbox()
        self._call: Callable[..., object] | None = None

    def define(self, nonce: str, sources: str, entry_point: str) -> Text:
        """Run the pieces of a module; its function `entry_point` is what `call` calls.

        A piece that is followed by another one need not be Python: prompts may be prose.
        """
        module = _module("solution")
        *before, last = _loads(sources)
        for prompt in before:
            _run_helpers(prompt, module.__dict__)
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
            return self.mail.post(nonce, raised=[_builtin_kind(error), _message(error)])
        try:
            told: dict[str, Any] = {"returned": encode(value)}
            if show:
                told["arguments"] = encode([args, kwargs])
        except BaseException as error:  # noqa: BLE001 - a lazy value runs model code here
            return self.mail.post(nonce, unsaid=_message(error))
        return self.mail.post(nonce, **told)

    def program(self, source: str, stdin: str) -> None:
        """Run `source` as a program that reads `stdin`; `sys.exit(0)` is an ordinary end."""
        with tempfile.TemporaryFile() as file:
            file.write(stdin.encode("utf-8", "surrogatepass"))
            file.seek(0)
            os.dup2(file.fileno(), 0)
        raw = io.BufferedReader(io.FileIO(0, closefd=False))
        sys.stdin = io.TextIOWrapper(raw, "utf-8", "surrogateescape")
        module = _module("__main__")
        try:
            exec(compile(source, "solution.py", "exec"), module.__dict__)
        except _print_exit as error:
            if error.code not in (None, 0):
                raise


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
            outcome = {"failed": _message(error), "calls": calls}
        self._events.put(_Ended(outcome))

    def _run(self, prompt: str, test: str, entry_point: str, candidate: Callable[..., Any]) -> None:
        namespace = _module("tests").__dict__
        _run_helpers(prompt, namespace)
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


__all__ = [
    "CANARY",
    "MAX_CHARS",
    "PART_CHARS",
    "Mailbox",
    "Solution",
    "Tester",
    "Text",
    "Unsayable",
]
