"""The docker sandbox when the world fails: containers and daemons that die, hang or vanish."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest

from agentrl.errors import SandboxError, SandboxUnavailable
from agentrl.sandbox import SandboxLimits
from agentrl_sandbox.docker.pool import DockerPool
from agentrl_sandbox.owner import Owner

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="dockerd is started on Linux only"),
]
LIMITS = SandboxLimits(memory_mb=256, disk_mb=16)
LABEL = "label=agentrl.sandbox"
ENDLESS = "while True: pass"


class Daemon(Protocol):
    """The fixture's type."""

    host: str

    def docker(self, *arguments: str, check: bool = True) -> str:
        """Run the docker command."""
        ...


@asynccontextmanager
async def opened(image: str) -> AsyncIterator[DockerPool]:
    """A pool of one container per two sessions."""
    pool = DockerPool(limits=LIMITS, image=image, sessions_per_container=2)
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


def ours(daemon: Daemon) -> list[str]:
    """Containers of this back end."""
    return daemon.docker("ps", "-aq", "--filter", LABEL).split()


async def until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    """Wait for something outside to happen."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_container_killed_under_running_code(docker_host: Daemon, docker_image: str) -> None:
    """The run fails as the world's fault; the session goes on in another container."""
    async with opened(docker_image) as pool:
        session, (container,) = await pool.acquire(), ours(docker_host)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(_failure(session.run(ENDLESS, timeout_s=60)))
            await asyncio.sleep(0.5)
            await asyncio.to_thread(docker_host.docker, "kill", container)
        assert "container was lost" in running.result()
        with pytest.raises(SandboxError, match="all state with it"):
            await session.run("1", timeout_s=20)
        assert (await session.run("6 * 7", timeout_s=20)).value == "42"
        assert ours(docker_host) != [container]
        assert pool.statistics().restarts == 1
    assert ours(docker_host) == []


async def _failure(run: object) -> str:
    with pytest.raises(SandboxError) as caught:
        await run  # type: ignore[misc]
    return str(caught.value)


async def test_container_killed_between_runs(docker_host: Daemon, docker_image: str) -> None:
    """A session that has run says that its state is gone; one that has not just moves."""
    async with opened(docker_image) as pool:
        used, fresh = await pool.acquire(), await pool.acquire()
        await used.run("x = 1", timeout_s=20)
        await asyncio.to_thread(docker_host.docker, "kill", *ours(docker_host))
        await asyncio.sleep(0.3)
        with pytest.raises(SandboxError, match="lost"):
            await used.run("x", timeout_s=20)
        assert (await fresh.run("1", timeout_s=20)).value == "1"
        assert "NameError" in ((await used.run("x", timeout_s=20)).error or "")
        assert (await pool.run_once("2", timeout_s=20)).value == "2"


async def test_container_that_does_not_answer(
    docker_host: Daemon, docker_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paused, it keeps no deadline of its own: it is killed from out here."""
    monkeypatch.setattr("agentrl_sandbox.docker.session.SLACK_S", 0.5)
    async with opened(docker_image) as pool:
        session, (container,) = await pool.acquire(), ours(docker_host)
        await asyncio.to_thread(docker_host.docker, "pause", container)
        with pytest.raises(SandboxError, match="did not answer within"):
            await session.run("1", timeout_s=0.5)
        assert container not in ours(docker_host)
        assert (await pool.run_once("1", timeout_s=20)).value == "1"


class Proxy:
    """A daemon that can be cut off: its socket, forwarded until `cut`."""

    def __init__(self, path: str, target: str) -> None:
        self._path, self._target = path, target
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._forward, self._path)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self._target)
        self._writers += [writer, far_writer]
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(reader, far_writer))
            group.create_task(_copy(far_reader, writer))

    async def cut(self) -> None:
        """Drop every connection and refuse new ones."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        os.unlink(self._path)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()
    except OSError:
        writer.transport.abort()


async def test_daemon_gone(
    docker_host: Daemon, docker_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call ends in SandboxError after three attempts, and nothing is left in the daemon."""
    proxy = Proxy(str(tmp_path / "sock"), docker_host.host.removeprefix("unix://"))
    await proxy.start()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/sock")
    async with opened(docker_image) as pool:
        session = await pool.acquire()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(_failure(session.run(ENDLESS, timeout_s=60)))
            await asyncio.sleep(0.5)
            await proxy.cut()
        assert "lost" in running.result()
        began = time.monotonic()
        with pytest.raises(SandboxError, match="no container could be made"):
            await pool.acquire()
        with pytest.raises(SandboxError):
            await pool.run_once("1", timeout_s=5)
        assert time.monotonic() - began < 30
    # Nobody asked the daemon to remove it: the relay ended when its input did.
    await until(lambda: ours(docker_host) == [])


async def test_daemon_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("docker")
    monkeypatch.setattr("agentrl_sandbox.docker.daemon._CALL_S", 0.5)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "sock"))
        server.listen()
        with pytest.raises(SandboxUnavailable, match="no Docker daemon answers"):
            await DockerPool().open()


PARENT = """
import asyncio, sys
from agentrl.sandbox import SandboxLimits
from agentrl_sandbox.docker.pool import DockerPool
async def main():
    pool = DockerPool(limits=SandboxLimits(memory_mb=256), image=sys.argv[1])
    await pool.open()
    session = await pool.acquire()
    print("open", flush=True)
    await session.run("while True: pass", timeout_s=600)
asyncio.run(main())
"""


async def test_parent_killed(docker_host: Daemon, docker_image: str) -> None:
    """`kill -9` of the process that opened the pool takes the container with it."""
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", PARENT, docker_image], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert await asyncio.to_thread(parent.stdout.readline) == b"open\n"
        assert len(ours(docker_host)) == 1
        parent.send_signal(signal.SIGKILL)
    await until(lambda: ours(docker_host) == [])


async def test_what_the_dead_left_is_swept(docker_host: Daemon, docker_image: str) -> None:
    """Containers of a process that is gone are removed at `open`; of a living one they stay."""
    me = Owner.me()
    gone = Owner(me.boot, me.pid, "1")
    names: list[str] = []
    for owner in (gone, me):
        labels = [part for item in owner.labels().items() for part in ("--label", "=".join(item))]
        names.append(docker_host.docker("create", *labels, docker_image, "python3"))
    try:
        async with opened(docker_image):
            left = docker_host.docker("ps", "-aq", "--no-trunc", "--filter", LABEL).split()
            assert names[0] not in left
            assert names[1] in left
    finally:
        docker_host.docker("rm", "-f", names[1])


async def test_cancelled_open_leaves_nothing(docker_host: Daemon, docker_image: str) -> None:
    for pause_s in (0.01, 0.1, 0.4):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(pause_s):
                await DockerPool(limits=LIMITS, image=docker_image).open()
    await until(lambda: ours(docker_host) == [])
    assert os.getpid() == Owner.me().pid
