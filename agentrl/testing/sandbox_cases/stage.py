"""Things of this machine that a case must not reach, and whether it did.

Each case has a stage of its own, so that cases can run side by side: a folder with canaries, and
as far as it needs them a process to harm and sockets to reach. Everything here is made by the
case and harmless to lose.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeAlias

Need: TypeAlias = Literal["victim", "sockets", "places", "linux", "x86_64", "numpy"]

PLANTED = "AGENTRL_CONFORMANCE_SECRET"
"""Environment variable that holds a secret while a pool under test is opened."""
GONE_S = 5.0
_PRIVATE_FILES = ("/etc/shadow", "/etc/gshadow", "/etc/ssh/ssh_host_ed25519_key")


@contextlib.contextmanager
def planted_secret() -> Generator[str]:
    """Put a secret into this process's environment: a pool opened meanwhile must not pass it on."""
    secret = os.environ.get(PLANTED) or "secret-" + secrets.token_hex(12)
    before = os.environ.get(PLANTED)
    os.environ[PLANTED] = secret
    try:
        yield secret
    finally:
        if before is None:
            os.environ.pop(PLANTED, None)


class Stage:
    """A context manager; `told` goes to the code, the methods judge afterwards."""

    def __init__(self, needs: tuple[Need, ...] = ()) -> None:
        self.secret = "secret-" + secrets.token_hex(12)
        """In files, names, arguments and environments that the code must not see."""
        self.mark = "m" + secrets.token_hex(6)
        """Told to the code, to mark what it makes."""
        self.folder = Path(tempfile.mkdtemp(prefix="agentrl-stage-"))
        """Writable by anybody as far as its modes go."""
        self._victim: subprocess.Popen[bytes] | None = None
        self._sockets: dict[str, socket.socket] = {}
        self._needs = needs
        self._rss_mb = own_memory_mb()
        self._facts: dict[str, tuple[object, ...]] = {}

    def __enter__(self) -> Stage:
        self.folder.chmod(0o777)
        for name, mode in (("canary", 0o666), ("private", 0o600), (self.secret, 0o644)):
            (self.folder / name).write_text(self.secret)
            (self.folder / name).chmod(mode)
        if "sockets" in self._needs:
            self._listen()
        if "victim" in self._needs:
            self._victim = subprocess.Popen(
                ["sleep", "300"], env={"VICTIM": self.secret}, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
            self._facts["victim"] = self._condition()
        self._facts["canary"] = self._canary()
        self._facts["python"] = _identity(Path(sys.executable).resolve())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for opened in self._sockets.values():
            opened.close()
        if self._victim is not None:
            self._victim.kill()
            self._victim.wait()
        for path in self._placed():
            with contextlib.suppress(OSError):
                path.unlink()
        for pid in _marked(self.mark):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _listen(self) -> None:
        tcp = self._sockets["tcp"] = socket.create_server(("127.0.0.1", 0))
        udp = self._sockets["udp"] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        with contextlib.suppress(OSError):
            self._sockets["tcp6"] = socket.create_server(("::1", 0), family=socket.AF_INET6)
        for name in ("unix", "log"):
            kind = socket.SOCK_STREAM if name == "unix" else socket.SOCK_DGRAM
            opened = self._sockets[name] = socket.socket(socket.AF_UNIX, kind)
            opened.bind(str(self.folder / name))
            (self.folder / name).chmod(0o777)
        self._sockets["unix"].listen()
        if sys.platform == "linux":
            hidden = self._sockets["abstract"] = socket.socket(socket.AF_UNIX)
            hidden.bind("\0" + self.mark)
            hidden.listen()
        del tcp
        for opened in self._sockets.values():
            opened.settimeout(0)

    def told(self, memory_mb: int, disk_mb: int, open_files: int) -> dict[str, object]:
        """Names and values that the code gets; none holds the secret."""
        return {
            "FOLDER": str(self.folder),
            "CANARY": str(self.folder / "canary"),
            "PRIVATE": str(self.folder / "private"),
            "MARK": self.mark,
            "PARENT": os.getpid(),
            "VICTIM": self._victim.pid if self._victim else 0,
            "PORTS": {name: self._port(name) for name in ("tcp", "udp", "tcp6")},
            "PLACES": [str(place) for place in self.places()],
            "PRIVATE_FILES": list(_PRIVATE_FILES),
            "MEMORY_MB": memory_mb,
            "DISK_MB": disk_mb,
            "OPEN_FILES": open_files,
        }

    def _port(self, name: str) -> int:
        return self._sockets[name].getsockname()[1] if name in self._sockets else 9

    # --- what became of it -------------------------------------------------------------------

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not turn up in any output."""
        planted = os.environ.get(PLANTED)
        return (self.secret,) if planted is None else (self.secret, planted)

    def changes(self) -> list[str]:
        """What is different in the folder, in words."""
        expected = sorted(
            {"canary", "private", self.secret} | ({"unix", "log"} & set(self._sockets))
        )
        found = sorted(os.listdir(self.folder))
        told = [] if found == expected else [f"the folder holds {found}"]
        if self._canary() != self._facts["canary"]:
            told.append("a file outside was changed")
        if _identity(Path(sys.executable).resolve()) != self._facts["python"]:
            told.append("the interpreter's file was changed")
        return told

    def _canary(self) -> tuple[object, ...]:
        path = self.folder / "canary"
        try:
            entry = path.stat()
            marks = os.listxattr(path) if sys.platform == "linux" else []
            return (entry.st_mode, entry.st_mtime_ns, entry.st_uid, entry.st_nlink, marks,
                    path.read_text())  # fmt: skip
        except OSError as error:
            return (error.errno,)

    def reached(self) -> list[str]:
        """Names of the sockets to which something came."""
        return [name for name in self._sockets if self._came(name)]

    def _came(self, name: str) -> bool:
        opened = self._sockets[name]
        try:
            if opened.type == socket.SOCK_DGRAM:
                opened.recv(64)
            else:
                opened.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def harm(self) -> str:
        """What happened to the victim, empty when nothing did."""
        assert self._victim is not None
        if self._victim.poll() is not None:
            return f"it ended a foreign process ({self._victim.returncode})"
        if self._condition() != self._facts["victim"]:
            return f"a foreign process went from {self._facts['victim']} to {self._condition()}"
        return ""

    def _condition(self) -> tuple[object, ...]:
        """Limits, processors, priority and tracer of the victim."""
        assert self._victim is not None
        pid = self._victim.pid
        if sys.platform != "linux":
            return (os.getpriority(os.PRIO_PROCESS, pid),)
        status = Path(f"/proc/{pid}/status").read_text()
        tracer = next(line for line in status.splitlines() if line.startswith("TracerPid"))
        return (
            resource.prlimit(pid, resource.RLIMIT_NOFILE),
            tuple(sorted(os.sched_getaffinity(pid))),
            os.getpriority(os.PRIO_PROCESS, pid),
            os.sched_getscheduler(pid),
            tracer,
        )

    def places(self) -> list[Path]:
        """Folders of this machine where nothing may appear."""
        found = ["/", "/usr", "/usr/lib", "/etc", "/dev", "/dev/shm", "/run", "/var/tmp", "/root",
                 "/home", "/sys", tempfile.gettempdir(), os.getcwd(), str(Path.home()),
                 sysconfig.get_paths()["purelib"], str(Path(sys.executable).parent)]  # fmt: skip
        return [Path(place) for place in dict.fromkeys(found)]

    def _placed(self) -> list[Path]:
        names = [self.mark, f"{self.mark}.pth"]
        return [
            p for place in self.places() for name in names if os.path.lexists(p := place / name)
        ]

    def written(self) -> list[str]:
        """Marked files that turned up in `places`."""
        return [str(path) for path in self._placed()]

    def processes(self) -> list[int]:
        """Living processes that carry the mark once they had time to go."""
        deadline = time.monotonic() + GONE_S
        while (found := _marked(self.mark)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def descriptors(self) -> list[str]:
        """Marked files that this process has open: they came over a socket."""
        if sys.platform != "linux":
            return []
        links: list[str] = []
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"/proc/self/fd/{name}"))
        return [link for link in links if self.mark in link]

    def grown_mb(self) -> float:
        """By how much this process's memory peaked above what it had before the case."""
        return own_memory_mb() - self._rss_mb

    def digests(self) -> dict[str, str]:
        """SHA-256 of files that only their owner may read, as far as we may."""
        found: dict[str, str] = {}
        for path in _PRIVATE_FILES:
            with contextlib.suppress(OSError):
                if not os.stat(path).st_mode & 0o004:
                    found[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        return found

    @staticmethod
    def host_name() -> str:
        """What this machine calls itself."""
        return platform.node()


def own_memory_mb() -> float:
    """Peak resident memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024


def _identity(path: Path) -> tuple[object, ...]:
    entry = path.stat()
    return (entry.st_ino, entry.st_size, entry.st_mtime_ns, entry.st_mode)


def _marked(mark: str) -> list[int]:
    """Processes whose name, arguments or environment hold the mark, zombies left out."""
    found: list[int] = []
    for name in filter(str.isdigit, os.listdir("/proc") if sys.platform == "linux" else ()):
        parts: list[bytes] = []
        for part in ("comm", "cmdline", "environ"):
            with contextlib.suppress(OSError):
                parts.append(Path(f"/proc/{name}/{part}").read_bytes())
        if mark.encode() in b"\0".join(parts) and int(name) != os.getpid():
            found.append(int(name))
    return found


def lacking(needs: tuple[Need, ...]) -> str:
    """Why a case cannot run on this machine, empty when it can."""
    if "x86_64" in needs and platform.machine() != "x86_64":
        return "machine code of x86-64"
    if "linux" in needs and sys.platform != "linux":
        return "system calls of Linux"
    return ""
