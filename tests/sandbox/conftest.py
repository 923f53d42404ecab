"""Pools at every isolation level that this machine can give, one per level and module."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from agentrl.sandbox import LEVELS, IsolationLevel, Sandbox, SandboxLimits
from agentrl_sandbox.local import LocalPool
from agentrl_sandbox.probe import probe

SECRET = "s3cret-of-the-parent"
_DAEMON_BYTES = 4 << 30
LIMITS = SandboxLimits(memory_mb=256, disk_mb=16, output_bytes=20_000, open_files=64)


def _levels() -> list[object]:
    found = probe()
    levels: tuple[IsolationLevel, ...] = ("standard", "lite")
    return [
        pytest.param(
            level,
            marks=pytest.mark.skipif(
                LEVELS.index(found.level) < LEVELS.index(level), reason=found.why_not(level)
            ),
        )
        for level in levels
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=_levels())
async def pool(request: pytest.FixtureRequest) -> AsyncIterator[LocalPool]:
    """An open pool, made while the environment holds a secret."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTRL_TEST_SECRET", SECRET)
        if os.access("/dev/shm", os.W_OK):
            # The many small files of the disk bombs take a slow disk half a minute to forget.
            patch.setenv("TMPDIR", "/dev/shm")
        pool = LocalPool(limits=LIMITS, max_isolation=request.param)
        await pool.open()
    assert pool.isolation == request.param
    yield pool
    await pool.close()


@pytest_asyncio.fixture(loop_scope="module")
async def box(pool: LocalPool) -> AsyncIterator[Sandbox]:
    """A fresh session."""
    session = await pool.acquire()
    yield session
    await session.close()


PACKAGES = (
    "numpy numpy.libs sympy mpmath pytest _pytest pluggy iniconfig packaging pygments "
    "pytest_asyncio py.py typing_extensions.py pytest_timeout.py"
)
LEFT_OUT = shutil.ignore_patterns(
    "site-packages", "test", "tests", "idlelib", "tkinter", "ensurepip", "config-*",
    "*.a", "turtledemo", "lib2to3",
)  # fmt: skip


def _same_file(source: str, target: str) -> None:
    """A hard link where that is possible, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@pytest.fixture(scope="session")
def portable_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """This interpreter with what the hostile suite needs, in a folder that anyone may read."""
    home = Path(tempfile.mkdtemp(prefix="agentrl-python-"))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = Path(sys.base_prefix)
    (home / "bin").mkdir()
    _same_file(os.path.realpath(sys.executable), str(home / "bin" / "python3"))
    shutil.copytree(
        base / "lib" / version, home / "lib" / version, ignore=LEFT_OUT,
        copy_function=_same_file, symlinks=True,
    )  # fmt: skip
    for library in (base / "lib").glob("libpython*.so*"):
        _same_file(os.path.realpath(library), str(home / "lib" / library.name))
    _add_packages(home / "lib" / version / "site-packages")
    home.chmod(0o755)
    yield home / "bin" / "python3"
    shutil.rmtree(home)


def _add_packages(target: Path) -> None:
    source = Path(pytest.__file__).parent.parent
    target.mkdir()
    for name in PACKAGES.split():
        if (source / name).is_dir():
            shutil.copytree(
                source / name, target / name, copy_function=_same_file,
                ignore=shutil.ignore_patterns("tests"),
            )  # fmt: skip
        elif (source / name).exists():
            _same_file(str(source / name), str(target / name))
    for name in ("pytest", "pytest_asyncio", "pytest_timeout", "pluggy"):
        for found in source.glob(f"{name}-*.dist-info"):
            shutil.copytree(found, target / found.name, copy_function=_same_file)


@pytest.fixture(scope="session")
def portable_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The sandbox, its contract and the hostile suite, in a folder that anyone may read."""
    root = Path(__file__).parent.parent.parent
    home = Path(tempfile.mkdtemp(prefix="agentrl-tests-"))
    (home / "agentrl").mkdir()
    for file in (root / "agentrl").glob("*.py"):
        shutil.copy(file, home / "agentrl")
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / "sandbox", home / "sandbox", ignore=skip)
    testing = home / "agentrl" / "testing"  # of the kits only the one that needs no libraries
    shutil.copytree(root / "agentrl" / "testing" / "sandbox_cases", testing / "sandbox_cases")
    for name in ("result.py", "sandbox_kit.py"):
        shutil.copy(root / "agentrl" / "testing" / name, testing)
    (testing / "__init__.py").touch()
    (home / "tests").mkdir()
    shutil.copytree(root / "tests" / "sandbox", home / "tests" / "sandbox", ignore=skip)
    shutil.copy(root / "pyproject.toml", home)
    subprocess.run(["chmod", "-R", "a+rX", str(home)], check=True)
    yield home
    shutil.rmtree(home)


@dataclass(frozen=True, slots=True)
class Daemon:
    """A Docker daemon that answers."""

    host: str
    """As in `DOCKER_HOST`."""

    def docker(self, *arguments: str, check: bool = True) -> str:
        """Run the docker command and return what it prints."""
        done = subprocess.run(
            ["docker", f"--host={self.host}", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.strip()


def _quick_place() -> str | None:
    """Memory, where there is enough: a disk takes a minute to write and forget an image's files."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage("/dev/shm").free > _DAEMON_BYTES:
            return "/dev/shm"
    return None


@contextlib.contextmanager
def running_daemon() -> Iterator[Daemon]:
    """A daemon with all its data in a temporary folder, gone afterwards; skips where none can run."""
    missing = [name for name in ("docker", "dockerd") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"no Docker daemon can be started: {', '.join(missing) or 'not root'}")
    home = Path(tempfile.mkdtemp(prefix="agentrl-dockerd-", dir=_quick_place()))
    daemon = Daemon(f"unix://{home}/sock")
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            ["dockerd", f"--data-root={home}/data", f"--exec-root={home}/exec",
             f"--pidfile={home}/pid", f"--host={daemon.host}", "--iptables=false",
             "--ip6tables=false", "--bridge=none", "--shutdown-timeout=2"],
            stdout=subprocess.DEVNULL,
            stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not daemon.docker("version", "--format", "{{.Server.Version}}", check=False):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.skip("dockerd does not come up: " + (home / "log").read_text()[-500:])
            time.sleep(0.2)
        yield daemon
    finally:
        containerd = home / "exec" / "containerd" / "containerd.pid"
        helper = int(containerd.read_text()) if containerd.exists() else None
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            if helper is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(helper, signal.SIGKILL)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def docker_daemon() -> Iterator[Daemon]:
    """A Docker daemon for the whole session."""
    with running_daemon() as daemon:
        yield daemon


IMAGE = "agentrl-sandbox-python"


@pytest.fixture(scope="session")
def docker_image(docker_daemon: Daemon, portable_python: Path) -> str:
    """The name of an image with this Python, numpy and sympy, and nothing of ours."""
    home = portable_python.parent.parent
    settings = ("--change=ENV PATH=/opt/python/bin", "--change=ENV LD_LIBRARY_PATH=/opt/python/lib")
    with subprocess.Popen(
        ["docker", f"--host={docker_daemon.host}", "import", *settings, "-", IMAGE],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    ) as importer:
        assert importer.stdin is not None
        with tarfile.open(fileobj=importer.stdin, mode="w|", dereference=True) as tar:
            tar.add(home, "opt/python")
            for path in _libraries(home):
                tar.add(path, path.lstrip("/"))
            tmp = tarfile.TarInfo("tmp")
            tmp.type, tmp.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(tmp)
        importer.stdin.close()
    assert importer.returncode == 0
    return IMAGE


def _libraries(home: Path) -> set[str]:
    """Shared libraries of the machine that an interpreter and its extensions need."""
    programs = [str(home / "bin" / "python3"), *map(str, home.rglob("*.so*"))]
    listing = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False)
    found = re.findall(r"(?:=> |^\s)(/(?:usr/)?lib\S+)", listing.stdout, re.MULTILINE)
    return {path for path in found if not path.startswith(str(home))}


@pytest.fixture(scope="module")
def docker_host(docker_daemon: Daemon) -> Iterator[Daemon]:
    """The daemon, and `DOCKER_HOST` pointing at it."""
    pytest.importorskip("docker")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", docker_daemon.host)
        patch.setenv("AGENTRL_TEST_SECRET", SECRET)
        yield docker_daemon
