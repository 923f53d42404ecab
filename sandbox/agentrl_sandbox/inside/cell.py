"""The stateful interpreter inside a session child: one namespace, one cell after another.

Like a notebook: the value of a last bare expression is echoed, tracebacks go to stderr with their
source lines, `sys.exit` ends the interpreter.
"""

from __future__ import annotations

import ast
import contextlib
import io
import linecache
import os
import signal
import socket
import sys
import threading
import traceback
import types
from typing import NamedTuple, NoReturn, TextIO

from agentrl_sandbox.inside import branch, wire

_THREAD_STACK_BYTES = 512 * 1024
_CHUNK = 1 << 14


class Outcome(NamedTuple):
    """What one cell came to."""

    kind: int
    value: bytes | None
    error: bytes | None


def _stream(fd: int) -> TextIO:
    raw = io.FileIO(fd, "w", closefd=False)
    buffer = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, "utf-8", errors="backslashreplace", line_buffering=True)


def _compile(code: str, name: str) -> tuple[types.CodeType | None, types.CodeType | None]:
    """What to execute, then what to evaluate and echo; None where there is nothing."""
    tree = ast.parse(code, name)
    final = tree.body[-1] if tree.body else None
    if not isinstance(final, ast.Expr):
        return compile(tree, name, "exec"), None
    tree.body.pop()
    last = compile(ast.Expression(final.value), name, "eval")
    return compile(tree, name, "exec") if tree.body else None, last


def _last_line(error: BaseException) -> bytes:
    try:
        text = traceback.format_exception_only(error)[-1].strip()
    except BaseException:  # noqa: BLE001 - the exception's own __str__ is model code
        text = type(error).__name__
    return wire.encode(text)[: wire.MAX_ERROR_BYTES]


class Interpreter:
    """Runs cells in one namespace and answers on the control socket."""

    def __init__(
        self, control: socket.socket, value_bytes: int, work: str, private_files: bool
    ) -> None:
        self._control = control
        self._value_bytes = value_bytes
        self._work = work
        self._private_files = private_files
        self._running = False
        self._cells = 0
        self._module = types.ModuleType("__main__")
        self._module.__dict__["__builtins__"] = __builtins__
        self._stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - open for the process's life
        self._stdout, self._stderr = _stream(1), _stream(2)

    def serve(self) -> None:
        """Answer requests until the other side hangs up."""
        self._control.sendall(wire.reply(wire.NO_NONCE, wire.READY, None, None))
        threading.stack_size(_THREAD_STACK_BYTES)
        while (request := self._next()) is not None:
            order, nonce, text = request
            outcome = self._branch(int(text)) if order == wire.COPY else self._guarded(text)
            if outcome is not None:
                self._control.sendall(wire.reply(nonce, *outcome))

    def _next(self) -> wire.Request | None:
        """The next order; None when the other side has hung up. It sends one at a time."""
        data = bytearray()
        while (request := wire.parse_request(data)) is None:
            piece = self._control.recv(_CHUNK)
            if not piece:
                return None
            data += piece
        return request

    def _branch(self, copies: int) -> Outcome | None:
        """Make copies of this process; None in a copy, which has answered for itself."""
        here, parent = os.getcwd(), os.getppid()
        self._flush()
        try:
            for _ in range(copies):
                if branch.clone(self._private_files):
                    self._become_copy(here, parent)
                    return None
        except OSError as error:
            return Outcome(wire.ERROR, None, _last_line(error))
        return Outcome(wire.OK, None, None)

    def _become_copy(self, here: str, parent: int) -> None:
        """A copy's way to where a fresh session is after its start. Ends the process on failure."""
        try:
            os.chdir(self._work)
            # The zygote lets this return when it has replaced our channels and made a work folder.
            os.setsid()
        except OSError:
            # The channels are still the parent's: not a word on them.
            os._exit(1)
        try:
            request = self._next()
            if request is None:
                os._exit(0)
            branch.move_in(self._work, request[2], here)
            self._work = request[2]
            branch.finish_fence(parent)
        except BaseException as error:  # noqa: BLE001 - a copy without its fence must not go on
            self._control.sendall(wire.reply(wire.NO_NONCE, wire.UNFIT, None, _last_line(error)))
            os._exit(1)
        self._control.sendall(wire.reply(wire.NO_NONCE, wire.READY, None, None))

    def _interrupted(self, number: int, frame: types.FrameType | None) -> None:
        if self._running:
            raise KeyboardInterrupt

    def _guarded(self, code: str) -> Outcome:
        """Run one cell; an interrupt may strike anywhere in here and still ends in an answer."""
        self._adopt()
        try:
            outcome = self._run(code)
        except KeyboardInterrupt as error:
            outcome = Outcome(wire.ERROR, None, _last_line(error))
        self._running = False
        self._flush()
        return outcome

    def _adopt(self) -> None:
        """Put back what earlier cells may have replaced."""
        signal.signal(signal.SIGINT, self._interrupted)
        sys.modules["__main__"] = self._module
        sys.stdin, sys.stdout, sys.stderr = self._stdin, self._stdout, self._stderr

    def _run(self, code: str) -> Outcome:
        self._cells += 1
        name = f"<cell {self._cells}>"
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        self._running = True
        try:
            value = self._evaluate(code, name)
            return Outcome(wire.OK, value, None)
        except SystemExit as error:
            self._exit(error)
        except BaseException as error:  # noqa: BLE001 - whatever model code raises is its result
            self._running = False
            self._show(error)
            return Outcome(wire.ERROR, None, _last_line(error))
        finally:
            self._running = False

    def _evaluate(self, code: str, name: str) -> bytes | None:
        body, last = _compile(code, name)
        namespace = self._module.__dict__
        if body is not None:
            exec(body, namespace)
        if last is None:
            return None
        value = eval(last, namespace)  # noqa: S307 - running model code is the purpose
        if value is None:
            return None
        namespace["_"] = value
        return self._shortened(wire.encode(repr(value)))

    def _shortened(self, value: bytes) -> bytes:
        beyond = len(value) - self._value_bytes
        if beyond <= 0:
            return value
        return value[: self._value_bytes] + b"... [%d more bytes]" % beyond

    def _show(self, error: BaseException) -> None:
        try:
            report = traceback.TracebackException.from_exception(error, compact=True)
            frames = [frame for frame in report.stack if frame.filename != __file__]
            report.stack = traceback.StackSummary.from_list(frames)
            self._stderr.writelines(report.format())
        except BaseException:  # noqa: BLE001 - formatting calls methods that model code wrote
            with contextlib.suppress(BaseException):
                print(f"{type(error).__name__} (it cannot be printed)", file=self._stderr)

    def _exit(self, error: SystemExit) -> NoReturn:
        self._running = False
        code = error.code
        if code is not None and not isinstance(code, int):
            with contextlib.suppress(BaseException):
                print(code, file=self._stderr)
            code = 1
        self._flush()
        os._exit((code or 0) & 0xFF)

    def _flush(self) -> None:
        # The replaced stream is flushed too: model code may have redirected sys.stdout.
        for stream in (sys.stdout, sys.stderr, self._stdout, self._stderr):
            with contextlib.suppress(BaseException):
                stream.flush()
