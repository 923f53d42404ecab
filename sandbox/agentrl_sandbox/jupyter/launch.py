"""How a kernel is started: its folder, its command, its environment."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from agentrl.errors import SandboxUnavailable
from agentrl.sandbox import SandboxLimits
from agentrl_sandbox.inside.folders import remove_tree
from agentrl_sandbox.jupyter.guard import Order
from agentrl_sandbox.jupyter.survey import Survey
from agentrl_sandbox.owner import Owner

_BOOT = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
module = importlib.import_module("agentrl_sandbox.jupyter." + sys.argv[2])
del sys.path[0]
module.main()
"""
_SOURCES = "/opt/agentrl"
_WORK = "/box"
_SCRATCH = "/var/ipython"
_INNER_USER = "1000"
_OWN_FILES = 64
"""Descriptors that a kernel needs for itself."""
_SURVEY_S = 30.0
_PREFIX = "agentrl-jupyter-"
_LONGEST = 80
"""Characters of a folder's path: socket paths have 107."""
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "USER": "sandbox",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}
_KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True)
class Lodging:
    """One kernel's folder on this machine: its connection file, its sockets, nothing else."""

    folder: str

    @classmethod
    def make(cls) -> Lodging:
        """A new one, mode 0700, named after this process so that it can be swept."""
        me = Owner.me()
        name = f"{_PREFIX}{me.pid}-{me.started}-{secrets.token_hex(4)}"
        folder = os.path.join(_base(), name)
        os.mkdir(folder, 0o700)
        return cls(folder)

    @property
    def connection_file(self) -> str:
        """Where the addresses and the key of the messages are written."""
        return os.path.join(self.folder, "k.json")

    def remove(self) -> None:
        """Delete it; connections that stand go on."""
        remove_tree(self.folder)


def _base() -> str:
    for folder in ("/dev/shm", tempfile.gettempdir(), "/tmp"):
        if os.access(folder, os.W_OK | os.X_OK) and len(folder) < _LONGEST:
            return folder
    raise SandboxUnavailable(
        "there is no folder for the sockets of kernels: /dev/shm and /tmp are not writable, and "
        "TMPDIR is longer than a socket path may be; set TMPDIR to a short writable path"
    )


def sweep() -> int:
    """Remove the folders of processes that have ended, and say how many there were."""
    me, swept = Owner.me(), 0
    for found in Path(_base()).glob(f"{_PREFIX}*"):
        pid, _, rest = found.name.removeprefix(_PREFIX).partition("-")
        started = rest.partition("-")[0]
        if pid.isdigit() and Owner(me.boot, int(pid), started).is_gone():
            remove_tree(str(found))
            swept += not found.exists()
    return swept


async def surveyed(python: str | None) -> Survey:
    """What the interpreter says about itself. Raises SandboxUnavailable when it cannot be used."""
    program = python or sys.executable
    command = [program, "-B", "-s", "-P", "-c", _BOOT, _home(), "survey"]
    try:
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            env=_environment("/", "/"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SURVEY_S,
            check=False,
        )
        survey = cast("Survey", json.loads(done.stdout))
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise SandboxUnavailable(
            f"the interpreter {program!r} cannot be used for kernels ({error}): set python to the "
            "path of a Python 3.11 or later with ipykernel"
        ) from error
    if not survey["ipykernel"]:
        raise SandboxUnavailable(
            f"the interpreter {program!r} has no ipykernel: "
            f"{program} -m pip install 'agentrl-framework[jupyter]'"
        )
    return survey


def _home() -> str:
    """The folder that holds the `agentrl_sandbox` package."""
    return str(Path(__file__).resolve().parents[2])


def _environment(home: str, scratch: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    places = {"HOME": home, "TMPDIR": home, "PWD": home, "IPYTHONDIR": scratch}
    config = {f"JUPYTER_{what}_DIR": scratch for what in ("CONFIG", "DATA", "RUNTIME")}
    return {**_ENVIRONMENT, **kept, **places, **config}


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything needed to start one kernel."""

    command: list[str]
    environment: dict[str, str]
    work: str | None
    """Its work folder on this machine; None where it lives in a file tree of its own."""


class Maker(Protocol):
    """Knows how kernels are started here."""

    def __call__(self, lodging: Lodging, report: int) -> Launch:
        """For a kernel in that folder, its guard's report to that descriptor."""
        ...


def bubbled(
    survey: Survey, lodging: Lodging, report: int, *, limits: SandboxLimits, bwrap: str
) -> Launch:
    """In namespaces of its own: a read-only tree, no network, no other process."""
    folder = lodging.folder
    command = [
        bwrap, "--unshare-all", "--unshare-user", "--uid", _INNER_USER, "--gid", _INNER_USER,
        "--hostname", "sandbox", "--die-with-parent", "--new-session", "--clearenv",
        # For one mount: the guard gives it up before the kernel runs.
        "--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN",
    ]  # fmt: skip
    for name, text in _environment(_WORK, _SCRATCH).items():
        command += ["--setenv", name, text]
    for path in (*survey["readable"], survey["python"]):
        command += ["--ro-bind", path, path]
    package = Path(__file__).resolve().parents[1]
    command += ["--ro-bind", str(package), f"{_SOURCES}/{package.name}"]
    for device in _DEVICES:
        command += ["--dev-bind", device, device]
    if not any(path.startswith("/tmp/") for path in (folder, *survey["readable"])):
        command += ["--symlink", _WORK, "/tmp"]
    command += [
        "--dir", _WORK,
        "--dir", _SCRATCH,
        "--bind", folder, folder,
        "--remount-ro", "/", "--chdir", _WORK, "--",
    ]  # fmt: skip
    order = _order(lodging, (_WORK, _SCRATCH), limits, report, fenced=True)
    command += [
        survey["python"],
        "-B",
        "-s",
        "-P",
        "-c",
        _BOOT,
        _SOURCES,
        "guard",
        json.dumps(order),
    ]
    # The first process inside keeps bubblewrap's own environment where model code can read it.
    return Launch(command, {"PATH": _ENVIRONMENT["PATH"]}, None)


def bare(survey: Survey, lodging: Lodging, report: int, *, limits: SandboxLimits) -> Launch:
    """As this user, with this user's files and network."""
    work = os.path.join(lodging.folder, "work")
    scratch = os.path.join(lodging.folder, "ipython")
    for path in (work, scratch):
        os.mkdir(path, 0o700)
    order = _order(lodging, (work, scratch), limits, report, fenced=False)
    command = [
        survey["python"], "-B", "-s", "-P", "-c", _BOOT, _home(), "guard", json.dumps(order),
    ]  # fmt: skip
    return Launch(command, _environment(work, scratch), work)


def _order(
    lodging: Lodging,
    folders: tuple[str, str],
    limits: SandboxLimits,
    report: int,
    *,
    fenced: bool,
) -> Order:
    return {
        "connection_file": lodging.connection_file,
        "work": folders[0],
        "scratch": folders[1],
        "disk_mb": limits.disk_mb,
        "open_files": limits.open_files + _OWN_FILES,
        "report": report,
        "fenced": fenced,
    }
