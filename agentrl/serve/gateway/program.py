"""A program in a process group of its own, with a deadline; nothing of it stays."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from agentrl.errors import UserError

TAIL_BYTES = 4096
"""Kept of what a program prints."""
DRAIN_S = 2.0
"""How long its last words are waited for once it has ended."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended."""

    code: int
    """Exit status; negative is the signal that ended it."""
    timed_out: bool
    tail: str
    """The end of what it wrote on standard output and error."""

    @property
    def last_words(self) -> str:
        """The last line of `tail`."""
        lines = [line for line in self.tail.splitlines() if line.strip()]
        return lines[-1].strip() if lines else "it said nothing"


async def run_program(
    command: Sequence[str],
    variables: Mapping[str, str],
    *,
    timeout_s: float | None,
    folder: str | None = None,
) -> Outcome:
    """Run `command` with `variables` added to the environment, to its end or its deadline.

    Its whole process group is killed at the deadline, at cancellation, and after its own end.
    Raises UserError when it cannot be started.
    """
    said = bytearray()
    async with _pipe(said) as (writing, reader):
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=DEVNULL,
                stdout=writing,
                stderr=writing,
                cwd=folder,
                env={**os.environ, **variables},
                start_new_session=True,
            )
        except OSError as error:
            raise UserError(
                f"cannot start {command[0]!r} ({error.strerror}); give a program that can be run, "
                "such as command='[python, agent.py]'"
            ) from error
        finally:
            os.close(writing)
        timed_out = False
        try:
            async with asyncio.timeout(timeout_s):
                await process.wait()
        except TimeoutError:
            timed_out = True
        finally:
            _kill(process)
            await asyncio.shield(_buried(process, reader))
    code = 0 if process.returncode is None else process.returncode
    return Outcome(code, timed_out, bytes(said).decode("utf-8", "replace"))


@asynccontextmanager
async def _pipe(kept: bytearray) -> AsyncGenerator[tuple[int, asyncio.Task[None]]]:
    """A pipe's writing end, and the task that reads the other one to its end.

    asyncio's own pipes would make the wait for a program a wait for all that inherited them.
    """
    reading, writing = os.pipe()
    stream = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reading, "rb", buffering=0)
    )
    try:
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(_tail(stream, kept))
            try:
                yield writing, reader
            finally:
                reader.cancel()
    finally:
        transport.close()


def _kill(process: Process) -> None:
    """The group outlives its leader while it has members, so its number is still its own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


async def _buried(process: Process, reader: asyncio.Task[None]) -> None:
    await process.wait()
    await asyncio.wait([reader], timeout=DRAIN_S)  # one that left the group may hold the pipe


async def _tail(stream: asyncio.StreamReader, kept: bytearray) -> None:
    """Read to the end, so that the program never waits for us; keep the last bytes."""
    while piece := await stream.read(1 << 16):
        kept += piece
        del kept[:-TAIL_BYTES]


__all__ = ["Outcome", "run_program"]
