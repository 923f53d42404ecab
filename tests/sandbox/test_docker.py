"""The docker sandbox: what its containers may do, and the contract through the attach stream."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from typing import Protocol

import pytest
import pytest_asyncio

from agentrl.env import Forkable
from agentrl.errors import SandboxError, SandboxUnavailable, UserError
from agentrl.sandbox import Interruptible, OneShot, Sandbox, SandboxLimits, SandboxPool
from agentrl_sandbox.docker import bundle, daemon, wire
from agentrl_sandbox.docker.pool import DockerPool

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(sys.platform != "linux", reason="dockerd is started on Linux only"),
]
LIMITS = SandboxLimits(memory_mb=256, disk_mb=16, output_bytes=20_000)
LABEL = "label=agentrl.sandbox"


class Daemon(Protocol):
    """The fixture's type."""

    host: str

    def docker(self, *arguments: str, check: bool = True) -> str:
        """Run the docker command."""
        ...


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(docker_host: Daemon, docker_image: str) -> AsyncIterator[DockerPool]:
    """An open pool."""
    pool = DockerPool(limits=LIMITS, image=docker_image, sessions_per_container=4)
    await pool.open()
    yield pool
    await pool.close()
    assert docker_host.docker("ps", "-aq", "--filter", LABEL) == ""


@pytest_asyncio.fixture(loop_scope="module")
async def box(pool: DockerPool) -> AsyncIterator[Sandbox]:
    """A fresh session."""
    session = await pool.acquire()
    yield session
    await session.close()


# --- the container ---------------------------------------------------------------------------


async def test_container_is_locked_down(pool: DockerPool, docker_host: Daemon) -> None:
    first = docker_host.docker("ps", "-q", "--filter", LABEL).split()[0]
    (found,) = json.loads(docker_host.docker("inspect", first))
    host = found["HostConfig"]
    assert host["NetworkMode"] == "none"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["PidsLimit"] == 64 + 4 * 64
    # Four sessions of 256 MB and 16 MB of files, and the interpreters.
    assert host["Memory"] == host["MemorySwap"] == (384 + 4 * 272) << 20
    assert host["IpcMode"] == "none"
    assert not host["Privileged"]
    assert host["AutoRemove"] is True
    assert host["LogConfig"]["Type"] == "none"
    assert not host["Binds"]
    assert not found["Mounts"]
    assert found["Config"]["User"] == "60000:60000"
    assert found["Config"]["Labels"]["agentrl.pid"] == str(os.getpid())
    status = docker_host.docker(
        "exec", first, "python3", "-c", "print(open('/proc/1/status').read())"
    )
    facts = dict(line.split(":", 1) for line in status.splitlines())
    assert facts["CapEff"].strip() == facts["CapBnd"].strip() == "0" * 16
    assert facts["NoNewPrivs"].strip() == "1"
    assert facts["Seccomp"].strip() == "2"
    assert pool.isolation == "lite"


async def test_relay_is_out_of_reach(box: Sandbox) -> None:
    """Its sources, its memory, its streams, its life: none of it can be opened or ended."""
    result = await box.run(
        f"""
import os, errno
def attempt(act, *arguments):
    try:
        act(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
found = []
for pid in filter(str.isdigit, map(str, range(1, 60))):
    if int(pid) == os.getpid():
        continue
    found.append(attempt(os.kill, int(pid), 9))
    for name in ("mem", "environ", "fd/0", "fd/1", "fd/4", "root"):
        found.append(attempt(open, f"/proc/{{pid}}/{{name}}", "rb"))
for folder in ({bundle.HOME!r}, {bundle.WORK!r}, "/"):
    found.append(attempt(os.listdir, folder))
    found.append(attempt(open, folder + "/x", "w"))
sorted(set(found))
""",
        timeout_s=20,
    )
    assert result.value is not None, result
    assert set(ast.literal_eval(result.value)) <= {"EACCES", "ENOENT", "EPERM", "EROFS"}
    assert (await box.run("1 + 1", timeout_s=20)).value == "2"


async def test_frames_cannot_be_forged(box: Sandbox) -> None:
    """Docker blocks and relay frames on every descriptor are text or nothing."""
    answer: wire.Answer = {"kind": "answer", "id": 0, "failed": "forged", "result": None}
    framed = wire.frame(answer)
    block = b"\x01\0\0\0" + len(framed).to_bytes(4, "big") + framed
    result = await box.run(
        f"""
import os
os.write(1, {block + framed!r})
for fd in range(3, 256):
    for data in ({framed!r}, {block!r}):
        try:
            os.write(fd, data)
        except OSError:
            pass
os._exit(3)
""",
        timeout_s=20,
    )
    assert result.status in ("exited", "error")
    assert result.stdout == (block + framed).decode("utf-8", "replace")
    assert result.state_lost
    assert (await box.run("1 + 1", timeout_s=20)).value == "2"


async def test_nothing_of_the_parent_comes_in(box: Sandbox) -> None:
    result = await box.run(
        "import os, glob, sys\n"
        "text = str(dict(os.environ)) + str(sys.argv)\n"
        "for path in glob.glob('/proc/*/environ') + glob.glob('/proc/*/cmdline'):\n"
        "    try: text += open(path).read()\n"
        "    except OSError: pass\n"
        "'s3cret' in text, os.getuid() != 0, os.uname().nodename",
        timeout_s=20,
    )
    assert result.value == "(False, True, 'sandbox')"


# --- the contract ----------------------------------------------------------------------------


async def test_is_a_pool(pool: DockerPool) -> None:
    assert isinstance(pool, SandboxPool)
    assert isinstance(pool, OneShot)
    session = await pool.acquire()
    assert isinstance(session, Sandbox)
    assert isinstance(session, Interruptible)
    assert isinstance(session, Forkable)
    await session.close()


async def test_facts_come_from_the_container(box: Sandbox) -> None:
    result = await box.run("sum(range(6_000_000)), len(bytearray(100 << 20))", timeout_s=30)
    assert result.value == "(17999997000000, 104857600)"
    assert 0.01 < result.cpu_s < 30
    assert 100 < result.peak_rss_mb < 300
    assert 0 < result.wall_s < 30
    assert result.isolation == "lite"


@pytest.mark.parametrize(
    ("code", "status", "value", "error"),
    [
        ("'\\ud800'", "ok", "'\\ud800'", None),
        ("'a\\0b'", "ok", "'a\\x00b'", None),
        ("x = '\ud800'", "error", None, "UnicodeEncodeError"),
        ("x = 1\0", "error", None, "null bytes"),
        ("import numpy, sympy\nsympy.factorint(int(numpy.int64(12)))", "ok", "{2: 2, 3: 1}", None),
    ],
)
async def test_odd_source(
    box: Sandbox, code: str, status: str, value: str | None, error: str | None
) -> None:
    result = await box.run(code, timeout_s=20)
    assert (result.status, result.value) == (status, value), result
    assert (error or "") in (result.error or "")


async def test_binary_output(box: Sandbox) -> None:
    result = await box.run("import sys\nsys.stdout.buffer.write(b'\\xff\\0\\x1bend')", timeout_s=20)
    assert result.stdout == "\ufffd\0\x1bend"


async def test_ten_megabytes_of_source(box: Sandbox) -> None:
    code = "x = '" + "a" * 10_000_000 + "'\nlen(x)"
    assert (await box.run(code, timeout_s=30)).value == "10000000"


async def test_source_beyond_all_bounds(
    pool: DockerPool, box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentrl_sandbox.docker.session._CODE_CHARACTERS", 100)
    for result in (
        await box.run("1" * 101, timeout_s=20),
        await pool.run_once("1" * 101, timeout_s=20),
    ):
        assert result.status == "error"
        assert "longer than" in (result.error or "")


async def test_output_is_cut_inside(box: Sandbox) -> None:
    result = await box.run("print('a' * 1_000_000)", timeout_s=20)
    assert result.stdout_dropped == 1_000_001 - LIMITS.output_bytes
    assert len(result.stdout) < LIMITS.output_bytes + 100


async def test_deadline_keeps_the_state_where_it_can(box: Sandbox) -> None:
    await box.run("x = 1", timeout_s=20)
    result = await box.run("while True: pass", timeout_s=0.3)
    assert (result.status, result.state_lost) == ("timeout", False)
    stubborn = "import signal\nsignal.signal(2, signal.SIG_IGN)\nwhile True: pass"
    assert (await box.run("x", timeout_s=20)).value == "1"
    result = await box.run(stubborn, timeout_s=0.3)
    assert (result.status, result.state_lost) == ("timeout", True)
    assert "NameError" in ((await box.run("x", timeout_s=20)).error or "")


async def test_containers_are_added_as_they_fill(pool: DockerPool, docker_host: Daemon) -> None:
    """Nine sessions at four to a container need three."""
    sessions = [await pool.acquire() for _ in range(9)]
    containers = docker_host.docker("ps", "-q", "--filter", LABEL).split()
    assert len(containers) == 3
    assert pool.statistics().open_sessions == 9
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(session.run(f"x = {i}\nx * x", timeout_s=20))
            for i, session in enumerate(sessions)
        ]
    assert [task.result().value for task in tasks] == [str(i * i) for i in range(9)]
    for session in sessions:
        await session.close()
    assert pool.statistics().open_sessions == 0


async def test_cancelled_run_does_not_go_on(box: Sandbox) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await box.run("while True: pass", timeout_s=60)
    result = await box.run("1 + 1", timeout_s=20)
    assert result.state_lost or result.value == "2"
    assert (await box.run("1 + 1", timeout_s=20)).value == "2"
    assert time.monotonic() - began < 30


async def test_close_ends_a_run(pool: DockerPool) -> None:
    session = await pool.acquire()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(_outcome(session))
        await asyncio.sleep(0.3)
        await session.close()
    assert running.result() != "ok"
    with pytest.raises(SandboxError, match="closed"):
        await session.run("1", timeout_s=5)


async def _outcome(session: Sandbox) -> str:
    try:
        return (await session.run("while True: pass", timeout_s=60)).status
    except SandboxError:
        return "lost"


async def test_interrupt_from_outside(box: Sandbox) -> None:
    assert isinstance(box, Interruptible)
    await box.run("x = 5", timeout_s=20)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(box.run("while True: pass", timeout_s=60))
        await asyncio.sleep(0.3)
        await box.interrupt()
    result = running.result()
    assert (result.status, result.error) == ("error", "KeyboardInterrupt")
    assert (await box.run("x", timeout_s=20)).value == "5"


async def test_copies_go_on_alone(pool: DockerPool) -> None:
    """Three copies append to the list they were copied with; the original keeps its own."""
    session = await pool.acquire()
    await session.run("x = [7]\nopen('note', 'w').write('kept')", timeout_s=20)
    copies = await session.fork(3)
    assert pool.statistics().open_sessions == 4
    for number, copy in enumerate(copies):
        code = f"x.append({number})\nx, open('note').read()"
        assert (await copy.run(code, timeout_s=20)).value == f"([7, {number}], 'kept')"
    await session.close()
    assert (await copies[0].run("x", timeout_s=20)).value == "[7, 0]"
    for copy in copies:
        await copy.close()
    assert pool.statistics().open_sessions == 0


async def test_copies_beyond_the_container(pool: DockerPool) -> None:
    session = await pool.acquire()
    with pytest.raises(SandboxError, match="raise sessions_per_container"):
        await session.fork(8)
    with pytest.raises(UserError, match="fork"):
        await session.fork(-1)
    assert await session.fork(0) == []
    await session.close()
    assert pool.statistics().open_sessions == 0


async def test_one_shot_runs_are_strangers(pool: DockerPool) -> None:
    before = pool.statistics()
    first = await pool.run_once("x = 6\nx * 7", timeout_s=20)
    second = await pool.run_once("x", timeout_s=20)
    assert (first.value, first.state_lost) == ("42", False)
    assert second.error == "NameError: name 'x' is not defined"
    after = pool.statistics()
    assert after.runs - before.runs == 2
    assert after.open_sessions == before.open_sessions


async def test_waiting_for_a_slot_ends(docker_host: Daemon, docker_image: str) -> None:
    pool = DockerPool(limits=LIMITS, image=docker_image, max_sessions=1, wait_s=0.2)
    await pool.open()
    try:
        session = await pool.acquire()
        with pytest.raises(SandboxError, match=r"all 1 sessions are taken"):
            await pool.acquire()
        assert pool.statistics().refused == 1
        await session.close()
        await (await pool.acquire()).close()
    finally:
        await pool.close()
    with pytest.raises(SandboxError, match="not open"):
        await pool.acquire()


# --- what cannot work ------------------------------------------------------------------------


async def test_more_isolation_than_there_is(docker_host: Daemon, docker_image: str) -> None:
    pool = DockerPool(image=docker_image, min_isolation="standard")
    with pytest.raises(SandboxUnavailable, match="standard"):
        await pool.open()


async def test_missing_image(docker_host: Daemon) -> None:
    with pytest.raises(SandboxUnavailable, match=r"`docker pull nobody/nothing`"):
        await DockerPool(image="nobody/nothing").open()
    with pytest.raises(SandboxUnavailable, match=r"docker build -t agentrl-sandbox -"):
        await DockerPool().open()


async def test_gvisor_is_preferred_but_not_at_any_price(
    docker_host: Daemon,
    docker_image: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A runtime that is listed and does not work: the default one, loudly; demanded: refused."""
    connect = daemon.Daemon.connect

    def listed() -> daemon.Daemon:
        found = connect()
        found.runtimes |= {"runsc"}
        return found

    monkeypatch.setattr("agentrl_sandbox.docker.pool.Daemon.connect", listed)
    pool = DockerPool(limits=LIMITS, image=docker_image)
    await pool.open()
    try:
        assert (await pool.run_once("6 * 7", timeout_s=20)).value == "42"
        assert "not in runsc" in caplog.text
    finally:
        await pool.close()
    with pytest.raises(SandboxUnavailable, match="runsc"):
        await DockerPool(limits=LIMITS, image=docker_image, runtime="runsc").open()


async def test_image_without_python(docker_host: Daemon, docker_image: str) -> None:
    before = docker_host.docker("ps", "-aq")
    pool = DockerPool(image=docker_image, python="python9")
    with pytest.raises(SandboxUnavailable, match="python9"):
        await pool.open()
    assert docker_host.docker("ps", "-aq") == before
