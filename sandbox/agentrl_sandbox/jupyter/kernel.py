"""One kernel and its guard, from start to burial."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import time
from queue import Empty
from typing import Any

import zmq
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

from agentrl.errors import SandboxError
from agentrl.sandbox import SandboxLimits
from agentrl_sandbox.child import Exit
from agentrl_sandbox.jupyter.launch import Launch, Lodging, Maker
from agentrl_sandbox.jupyter.report import Report

_READY_S = 60.0
_ANSWER_S = 0.5
_REPORT_S = 5.0
_END_S = 5.0
_WORDS = 2000
_MB = 1 << 20


class _OneSpec(KernelSpecManager):
    """Knows the one kernel that is about to be started."""

    argv: list[str]

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Our command, interrupted by message: signals do not pass bubblewrap."""
        return KernelSpec(
            argv=self.argv,
            display_name=kernel_name,
            language="python",
            interrupt_mode="message",
        )


class Kernel:
    """Made by `start`; use it after `ready`."""

    def __init__(self, manager: Any, lodging: Lodging, limits: SandboxLimits) -> None:
        self._manager = manager
        self._lodging = lodging
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[Exit | None] = self._loop.create_future()
        """Resolves when it is buried; None when its guard was lost and nobody could tell."""
        self.runs = 0
        self.work: str | None = None
        """Its work folder where that is a folder of this machine."""
        self.client: Any = None
        """Of jupyter-client, its channels connected; there once the kernel is ready."""
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = -1
        self._pidfd = -1
        self._report: Report | None = None
        self.out = self.err = -1
        """Our ends of its standard output and error; never blocking."""
        self._monitors: list[Any] = []
        self._closed = False

    @classmethod
    async def start(cls, make: Maker, limits: SandboxLimits, context: Any) -> Kernel:
        """Start the process, which takes milliseconds; it is not ready then. Raises SandboxError."""
        lodging = Lodging.make()
        report, far_report = os.pipe()
        try:
            launch = make(lodging, far_report)
            spec = _OneSpec()
            spec.argv = launch.command
            manager = AsyncKernelManager(
                transport="ipc",
                connection_file=lodging.connection_file,
                kernel_spec_manager=spec,
                kernel_name="agentrl",
                context=context,
            )
            kernel = cls(manager, lodging, limits)
            await kernel._launch(launch, far_report)
        except BaseException as error:
            lodging.remove()
            os.close(report)
            if isinstance(error, OSError):
                raise SandboxError(f"a kernel could not be started: {error}") from error
            raise
        finally:
            os.close(far_report)
        kernel._report = Report(report, kernel._settle)
        return kernel

    async def _launch(self, launch: Launch, report: int) -> None:
        await self._manager.start_kernel(
            env=launch.environment,
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(report,),
        )
        process: subprocess.Popen[bytes] = self._manager.provisioner.process
        self._process, self.work = process, launch.work
        assert process.stdout is not None
        assert process.stderr is not None
        self.out, self.err = process.stdout.fileno(), process.stderr.fileno()
        for fd in (self.out, self.err):
            os.set_blocking(fd, False)

    def _settle(self, exit_: Exit | None) -> None:
        if not self.exited.done():
            self.exited.set_result(exit_)

    async def ready(self) -> None:
        """Wait until it answers, then limit and stop it. Raises SandboxError with its last words."""
        if self.client is not None:
            return
        client = self._manager.client()
        client.start_channels(stdin=False, hb=False)
        self.client = client
        deadline = time.monotonic() + _READY_S
        while not await self._answers(client):
            if self.exited.done() or time.monotonic() > deadline:
                words = _last_words(self.err)
                raise SandboxError(f"a kernel does not start: {words or 'it says nothing'}")
        for pipe in (self.out, self.err):
            _last_words(pipe)  # what it said while it started is nobody's output
        self._take_hold()
        for channel in (client.shell_channel, client.iopub_channel):
            self._monitors.append(channel.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED))
        if self.work is None:
            # Whoever is connected stays so; nothing is left to be cleaned up after a crash.
            self._lodging.remove()
        self.freeze(True)

    async def _answers(self, client: Any) -> bool:
        """Whether all three channels carry messages: a subscription takes a moment to stand."""
        client.kernel_info()
        request = client.session.msg("kernel_info_request")
        client.control_channel.send(request)
        with contextlib.suppress(Empty):
            await client.get_shell_msg(timeout=_ANSWER_S)
            await client.get_control_msg(timeout=_ANSWER_S)
            await client.get_iopub_msg(timeout=_ANSWER_S)
            return True
        return False

    def _take_hold(self) -> None:
        """Find the kernel's own process and bound its memory. Raises SandboxError."""
        assert self._process is not None
        try:
            self._pid = _last_descendant(self._process.pid)
            self._pidfd = os.pidfd_open(self._pid)
            size = _status_kb(self._pid, "VmSize:") << 10
            most = size + self._limits.memory_mb * _MB
            resource.prlimit(self._pid, resource.RLIMIT_AS, (most, most))
        except OSError as error:
            raise SandboxError(f"a kernel's process cannot be limited: {error}") from error

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the kernel itself; the dead are left in peace."""
        if self._pidfd >= 0 and not self.exited.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def freeze(self, frozen: bool) -> None:
        """Stop it between runs, so that threads left behind cost nothing; or let it go on."""
        self.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def interrupt(self) -> None:
        """Ask for a KeyboardInterrupt, by message."""
        request = self.client.session.msg("interrupt_request")
        self.client.control_channel.send(request)

    def kill(self) -> None:
        """End it at once; the guard reports."""
        if self._pidfd >= 0:
            self.send_signal(signal.SIGKILL)
        elif self._process is not None:
            self._process.kill()

    def cut_off(self) -> bool:
        """Whether a channel has broken: code that writes into its own kernel's sockets does that."""
        return any(monitor.getsockopt(zmq.EVENTS) & zmq.POLLIN for monitor in self._monitors)

    def has_ended(self) -> bool:
        """Whether the guard has reported, or is gone."""
        return self.exited.done()

    def cpu_s(self) -> float:
        """CPU time it has used."""
        # The clock id of a process, as `clock_getcpuclockid(3)` makes it.
        try:
            return time.clock_gettime((~self._pid << 3) | 2)
        except OSError:
            return 0.0

    def peak_rss_mb(self) -> float:
        """Its greatest resident memory so far."""
        try:
            return _status_kb(self._pid, "VmHWM:") / 1024
        except OSError:
            return 0.0

    def _hang_up(self) -> None:
        if self.client is None:
            return
        # In this order: stopping a monitor whose other end is closed would block for ever.
        for channel in (self.client.shell_channel, self.client.iopub_channel):
            if self._monitors:
                channel.socket.disable_monitor()
        for monitor in self._monitors:
            monitor.close(linger=0)
        self._monitors.clear()
        self.client.stop_channels()

    async def close(self) -> None:
        """Kill it, hear how it ended, and leave nothing behind. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._hang_up()
        self.kill()
        await asyncio.wait({self.exited}, timeout=_REPORT_S)
        self._settle(None)
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(_bury, self._process)
        if self._report is not None:
            self._report.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        await self._manager.cleanup_resources()
        await asyncio.to_thread(self._lodging.remove)


def _bury(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_S)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _last_words(fd: int) -> str:
    try:
        return os.read(fd, 1 << 16).decode("utf-8", "replace").strip()[-_WORDS:]
    except OSError:
        return ""


def _last_descendant(pid: int) -> int:
    """The end of the line of only children: launcher, first process, guard, kernel."""
    while True:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            children = file.read().split()
        if not children:
            return pid
        pid = int(children[0])


def _status_kb(pid: int, name: str) -> int:
    with open(f"/proc/{pid}/status") as file:
        line = next((text for text in file if text.startswith(name)), "")
    if not line:
        raise ProcessLookupError(f"process {pid} is gone")
    return int(line.split()[1])
