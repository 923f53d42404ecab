"""The trusted end of a system-call filter that asks: `seccomp_unotify(2)`.

A filter may answer a call with "ask"; the caller then sleeps until the holder of the listener has
said what happens. Only calls whose arguments are numbers are asked about, so that nothing can change
between the question and the answer. Structures are those of `linux/seccomp.h`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
from dataclasses import dataclass

_RECEIVE, _SEND, _ADD_DESCRIPTOR = 0xC0502100, 0xC0182101, 0x40182103
_CONTINUE, _AT_NUMBER = 1, 1
_QUESTION = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_DESCRIPTOR = struct.Struct("=QIIII")


@dataclass(frozen=True, slots=True)
class Question:
    """A call that waits for an answer."""

    id: int
    thread: int
    """Thread id of the caller, in the listener's pid namespace."""
    number: int
    arguments: tuple[int, ...]

    def signed(self, index: int) -> int:
        """An argument as the C `int` that the kernel takes it for."""
        low = self.arguments[index] & 0xFFFFFFFF
        return low - (1 << 32) if low >> 31 else low


def receive(listener: int) -> Question | None:
    """The next question of a listener; None when there is none, as its caller died meanwhile.

    A listener that nobody is left to ask looks readable too, and would be waited for for ever.
    """
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    if not any(events & select.POLLIN for _, events in poll.poll(0)):
        return None
    buffer = bytearray(_QUESTION.size)
    try:
        _ioctl(listener, _RECEIVE, buffer)
    except OSError:
        return None
    id_, thread, _, number, _, _, *arguments = _QUESTION.unpack(buffer)
    return Question(id_, thread, number, tuple(arguments))


def allow(listener: int, question: Question) -> None:
    """Let the call take place. One whose caller died needs no answer."""
    _answer(listener, _ANSWER.pack(question.id, 0, 0, _CONTINUE))


def refuse(listener: int, question: Question, error: int) -> None:
    """Make the call fail with that `errno`."""
    _answer(listener, _ANSWER.pack(question.id, 0, -error, 0))


def _answer(listener: int, answer: bytes) -> None:
    with contextlib.suppress(OSError):
        _ioctl(listener, _SEND, answer)


def give(listener: int, question: Question, descriptor: int, number: int) -> None:
    """Make the caller's descriptor `number` ours, whatever it was before. Raises OSError."""
    cloexec = os.O_CLOEXEC
    order = _DESCRIPTOR.pack(question.id, _AT_NUMBER, descriptor, number, cloexec)
    _ioctl(listener, _ADD_DESCRIPTOR, order)


def _ioctl(listener: int, request: int, argument: bytes | bytearray) -> None:
    """Until it is through: any child that stops interrupts the zygote."""
    while True:
        try:
            fcntl.ioctl(listener, request, argument)
            return
        except InterruptedError:
            continue
