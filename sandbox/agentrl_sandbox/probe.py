"""What this machine can isolate: probed once by doing it, for `LocalPool` and `agentrl doctor`."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
from dataclasses import dataclass

from agentrl.sandbox import IsolationLevel, SandboxLimits
from agentrl_sandbox import boot, cgroups

_PROBE_S = 120.0
_NEEDED: dict[IsolationLevel, tuple[str, ...]] = {
    "minimal": ("seccomp",),
    "lite": ("seccomp", "landlock"),
    "standard": ("seccomp", "namespaces", "session mounts"),
    "strong": ("seccomp", "namespaces", "session mounts", "memory cgroup"),
}
_EAT = "import sys; sys.stdin.readline(); x = bytearray(256 << 20); print('not stopped')"


@dataclass(frozen=True, slots=True)
class Primitive:
    """One kernel feature, tried."""

    name: str
    works: bool
    detail: str
    """How it worked, or the error that it gave."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """All of them, and the level they allow."""

    level: IsolationLevel
    primitives: tuple[Primitive, ...]

    def lines(self) -> list[str]:
        """One line per primitive and one for the level, to print."""
        marks = [f"{p.name}: {'yes' if p.works else 'NO'}, {p.detail}" for p in self.primitives]
        return [*marks, f"isolation level: {self.level}"]

    def why_not(self, level: IsolationLevel) -> str:
        """What is missing for `level`, in a phrase."""
        needed = _NEEDED.get(level, ())
        lacking = [
            f"no {p.name} ({p.detail})" for p in self.primitives if p.name in needed and not p.works
        ]
        return ", ".join(lacking) or "nothing is missing"


@functools.cache
def probe(python: str | None = None) -> Capabilities:
    """Try every primitive in throw-away processes. Takes about 0.1 s; cached per interpreter."""
    if sys.platform != "linux":
        detail = f"{sys.platform} has none"
        names = ("seccomp", "landlock", "namespaces", "session mounts", "memory cgroup")
        return Capabilities("none", tuple(Primitive(n, False, detail) for n in names))
    process = boot.start("probing", python=python)
    try:
        output, errors = process.communicate(timeout=_PROBE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
    try:
        found: dict[str, tuple[bool, str]] = json.loads(output)
        found["memory cgroup"] = _memory_cgroup()
    except ValueError:
        detail = f"the probe failed: {errors.decode('utf-8', 'replace')[-500:]}"
        return Capabilities("none", (Primitive("probe", False, detail),))
    primitives = tuple(Primitive(name, works, detail) for name, (works, detail) in found.items())
    working = {p.name for p in primitives if p.works}
    level: IsolationLevel = "none"
    for candidate, needed in _NEEDED.items():
        if working.issuperset(needed):
            level = candidate
    return Capabilities(level, primitives)


def _memory_cgroup() -> tuple[bool, str]:
    """Let a throw-away process use more memory than its cgroup has, and see what becomes of it."""
    try:
        places = cgroups.find()
        places.sweep()
        home = places.make_home(SandboxLimits(memory_mb=16))
    except OSError as error:
        return False, str(error)
    try:
        group = home.make_group("probe")
        with subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _EAT],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            try:
                group.attach(process.pid)
                process.communicate(b"\n", timeout=_PROBE_S)
            finally:
                process.kill()
        kills = group.oom_kills()
        group.remove()
    except (OSError, subprocess.SubprocessError) as error:
        return False, str(error)
    finally:
        home.remove()
    version = 2 if places.unified else 1
    if process.returncode != -signal.SIGKILL or kills == 0:
        return False, f"version {version}: the limit is not obeyed"
    return True, f"version {version}, with {', '.join(places.of)}"
