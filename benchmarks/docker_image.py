"""A Docker daemon and an image of this Python, for benchmarks; nothing is downloaded."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("numpy", "numpy.libs", "sympy", "mpmath")
LEFT_OUT = ("site-packages", "test", "tests", "idlelib", "tkinter", "ensurepip", "__pycache__")
WARM_UP = "import compileall; compileall.compile_dir('/opt/python/lib', quiet=2)"


@contextlib.contextmanager
def daemon() -> Iterator[bool]:
    """DOCKER_HOST names a daemon that answers, or False: one that runs, or one started for this."""
    if _answers():
        yield True
        return
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        yield False
        return
    home = Path(tempfile.mkdtemp(prefix="agentrl-dockerd-"))
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            ["dockerd", f"--data-root={home}/data", f"--exec-root={home}/exec",
             f"--pidfile={home}/pid", f"--host=unix://{home}/sock", "--iptables=false",
             "--ip6tables=false", "--bridge=none"],
            stdout=subprocess.DEVNULL, stderr=log,
        )  # fmt: skip
    os.environ["DOCKER_HOST"] = f"unix://{home}/sock"
    try:
        deadline = time.monotonic() + 60
        while not (up := _answers()) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.3)
        yield up
    finally:
        del os.environ["DOCKER_HOST"]
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()
        shutil.rmtree(home, ignore_errors=True)


def _answers() -> bool:
    if shutil.which("docker") is None:
        return False
    done = subprocess.run(["docker", "version"], capture_output=True, check=False, timeout=60)
    return done.returncode == 0


def make_image(name: str) -> None:
    """Import this interpreter with numpy and sympy, compiled, as an image. Raises CalledProcessError."""
    base = Path(sys.base_prefix)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = base / "lib" / version
    site = Path(sysconfig.get_paths()["purelib"])
    settings = ("--change=ENV PATH=/opt/python/bin LD_LIBRARY_PATH=/opt/python/lib",)
    importer = subprocess.Popen(
        ["docker", "import", *settings, "-", name], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert importer.stdin is not None
    with importer.stdin, tarfile.open(fileobj=importer.stdin, mode="w|", dereference=True) as tar:
        tar.add(os.path.realpath(sys.executable), "opt/python/bin/python3")
        tar.add(library, f"opt/python/lib/{version}", filter=_needed)
        for package in PACKAGES:
            if (site / package).exists():
                tar.add(site / package, f"opt/python/lib/{version}/site-packages/{package}",
                        filter=_needed)  # fmt: skip
        for path in _libraries([Path(os.path.realpath(sys.executable)), library, site / "numpy"]):
            tar.add(path, path.lstrip("/"))
        for path in (base / "lib").glob("libpython*.so*"):
            tar.add(path, f"opt/python/lib/{path.name}")
        tmp = tarfile.TarInfo("tmp")
        tmp.type, tmp.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(tmp)
    subprocess.CompletedProcess(importer.args, importer.wait()).check_returncode()
    _compile(name)


def _needed(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if Path(entry.name).name in LEFT_OUT else entry


def _libraries(places: list[Path]) -> set[str]:
    """Shared libraries of the machine that the interpreter and its extensions need."""
    programs = [
        str(p) for place in places for p in ([place] if place.is_file() else place.rglob("*.so"))
    ]
    listing = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False)
    found = set(re.findall(r"(?:=> |^\s)(/(?:usr/)?lib\S+)", listing.stdout, re.MULTILINE))
    return {path for path in found if not path.startswith(sys.base_prefix)}


def _compile(name: str) -> None:
    """Byte code belongs into the image: the peer that imports must not compile each time."""
    run = [
        "docker",
        "run",
        "--network",
        "none",
        "--name",
        f"{name}-build",
        name,
        "python3",
        "-c",
        WARM_UP,
    ]
    subprocess.run(run, check=True, capture_output=True, timeout=300)
    change = "ENV PATH=/opt/python/bin LD_LIBRARY_PATH=/opt/python/lib"
    commit = ["docker", "commit", f"--change={change}", f"{name}-build", name]
    subprocess.run(commit, check=True, capture_output=True, timeout=120)
    subprocess.run(["docker", "rm", f"{name}-build"], check=True, capture_output=True, timeout=60)
