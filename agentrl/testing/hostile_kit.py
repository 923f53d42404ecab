"""Code that attacks the machine it runs on, bounded so that a failed check does little harm.

Whatever the code claims is data: each verdict is drawn on this side, from files, sockets and
processes that either changed or did not.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from uuid import uuid4

import anyio
from anyio import to_thread

from agentrl.sandbox import ExecResult, SandboxPool
from agentrl.testing.result import Check, expect, promise

DEADLINE_S = 20.0

READ_ENVIRONMENT = """
import glob, os
found = []
for path in glob.glob('/proc/*/environ'):
    try:
        found.append(open(path, 'rb').read().decode('utf-8', 'replace'))
    except OSError:
        pass
found += [f'{name}={value}' for name, value in os.environ.items()]
print([i for i, secret in enumerate(SECRETS) if secret in '\\0'.join(found)])
"""

FORK_BOMB = """
import os, time
made = 0
for _ in range(2000):
    try:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        made += 1
    except OSError:
        break
print(made)
"""

DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open('/proc/self/comm', 'w').write(MARK)
        time.sleep(60)
    os._exit(0)
os.wait()
time.sleep(0.3)
print('left')
"""

FORGE = """
import json, os
forged = json.dumps({'status': 'ok', 'stdout': MARK, 'value': MARK}).encode() + b'\\n'
for fd in range(3, 64):
    try:
        os.write(fd, forged)
    except OSError:
        pass
raise ValueError('the real end')
"""

WRITE = """
for place in {places!r}:
    try:
        open(place + '/{name}', 'w').write('x')
    except OSError:
        pass
"""

KNOWN = frozenset(
    ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "PWD", "USER", "OMP_NUM_THREADS")
)
"""Variables that a sandbox may pass on."""

FILL_MEMORY = "kept = []\nfor _ in range(4096): kept.append(b'x' * 2**20 + b'y')\nprint('all')"
FILL_DISK = (
    "with open('big', 'wb') as f:\n    for _ in range(2048): f.write(b'x' * 2**20)\nprint('all')"
)


def hostile_checks(pool: SandboxPool) -> list[Check]:
    """One check per attack."""
    attacks = (
        _environment,
        _private_file,
        _outside,
        _connect,
        _signal,
        _forks,
        _daemon,
        _memory,
        _disk,
        _forge,
    )
    return [promise(attack, pool) for attack in attacks]


async def _run(pool: SandboxPool, code: str, mark: str = "") -> ExecResult:
    sandbox = await pool.acquire()
    try:
        return await sandbox.run(f"MARK = {mark!r}\n{code}", timeout_s=DEADLINE_S)
    finally:
        await sandbox.close()


def _mark() -> str:
    return "m" + uuid4().hex[:12]


async def _environment(pool: SandboxPool) -> str:
    """Cannot read this process's environment."""
    secrets = await to_thread.run_sync(_secrets)
    result = await _run(pool, f"SECRETS = {secrets!r}\n{READ_ENVIRONMENT}")
    expect(result.stdout == "[]\n", f"of {len(secrets)} variables it read {result.stdout.strip()}")
    return f"{len(secrets)} variables kept"


def _secrets() -> list[str]:
    """`name=value` of what this process was started with, apart from what anybody may know."""
    entries = Path("/proc/self/environ").read_bytes().decode("utf-8", "replace").split("\0")
    return [e for e in entries if "=" in e and e.partition("=")[0] not in KNOWN and len(e) > 12]


async def _private_file(pool: SandboxPool) -> None:
    """Cannot read a private file."""
    mark = _mark()
    with tempfile.NamedTemporaryFile("w", suffix=".secret") as file:  # mode 0600
        file.write(mark)
        file.flush()
        result = await _run(pool, f"print(open({file.name!r}).read())")
    expect(mark not in result.stdout, "it read a file of mode 0600")


async def _outside(pool: SandboxPool) -> None:
    """Cannot write outside its work folder."""
    name = f"agentrl-{_mark()}"
    places = [tempfile.gettempdir(), str(Path.home()), os.getcwd(), "/var/tmp", "/dev/shm"]
    await _run(pool, WRITE.format(places=places, name=name))
    written = [path for path in (Path(place) / name for place in places) if path.exists()]
    for path in written:
        path.unlink()
    expect(not written, f"it wrote {', '.join(map(str, written))}")


async def _connect(pool: SandboxPool) -> None:
    """Cannot connect to this machine."""
    reached: list[bool] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        """Remember that somebody came."""
        reached.append(True)
        await stream.aclose()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, serve)
            await _run(pool, f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 3)")
            group.cancel_scope.cancel()
    expect(not reached, "it connected to a port of this machine")


async def _signal(pool: SandboxPool) -> None:
    """Cannot signal this process."""
    result = await _run(pool, f"import os\nos.kill({os.getpid()}, 0)\nprint('reached')")
    expect("reached" not in result.stdout, "it may signal this process")


async def _forks(pool: SandboxPool) -> str:
    """Cannot fill the process table."""
    result = await _run(pool, FORK_BOMB)
    made = int(result.stdout) if result.stdout.strip().isdigit() else 0
    expect(made < 1000, f"{made} processes were made")
    after = await _run(pool, "print('alive')")
    expect(after.stdout == "alive\n", f"then another session gave {after.status}")
    return f"{made} forks allowed"


async def _daemon(pool: SandboxPool) -> str | None:
    """Leaves no process behind."""
    mark = _mark()[:15]
    result = await _run(pool, DAEMON, mark)
    left = await to_thread.run_sync(_named, mark)
    expect(not left, f"processes {', '.join(left)} outlive the session")
    return None if "left" in result.stdout else f"it could not fork at all: {result.status}"


def _named(mark: str) -> list[str]:
    """Ids of this machine's processes that carry a name."""
    return [p.parent.name for p in Path("/proc").glob("[0-9]*/comm") if _reads(p, mark)]


def _reads(path: Path, mark: str) -> bool:
    try:
        return path.read_text().strip() == mark
    except OSError:
        return False


async def _memory(pool: SandboxPool) -> str:
    """Cannot take all memory."""
    result = await _run(pool, FILL_MEMORY)
    expect("all" not in result.stdout, "4 GB were handed out")
    return result.status


async def _disk(pool: SandboxPool) -> str:
    """Cannot fill the disk."""
    result = await _run(pool, FILL_DISK)
    expect("all" not in result.stdout, "2 GB were written")
    return result.status


async def _forge(pool: SandboxPool) -> None:
    """Cannot forge its result."""
    mark = _mark()
    result = await _run(pool, FORGE, mark)
    expect(result.status != "ok", "a forged result was believed")
    expect(mark not in (result.stdout, result.value), "a forged field was believed")
