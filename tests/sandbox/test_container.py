"""The hostile suite inside real containers: `pytest -m slow tests/sandbox/test_container.py`.

Uses a running Docker daemon, or starts one of its own (as root) with all its data in a temporary
folder. The image is made from this machine's Python, so nothing is downloaded. What the runs print
is kept in `benchmarks/results/sandbox_container.txt`.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="containers of Linux"),
]

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "sandbox_container.txt"
IMAGE = "agentrl-sandbox-test"
RUNS = {
    "default, root": [],
    "default, user 4242": ["--user", "4242:4242"],
    "no capabilities, root": ["--cap-drop", "ALL"],
    "seccomp=unconfined, root": ["--security-opt", "seccomp=unconfined"],
    "seccomp=unconfined, user 4242": [
        "--security-opt",
        "seccomp=unconfined",
        "--user",
        "4242:4242",
    ],
}


@pytest.fixture(scope="module")
def docker() -> Iterator[list[str]]:
    """The docker command, with a daemon behind it."""
    if shutil.which("docker") is None:
        pytest.skip("no docker command")
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0:
        yield ["docker"]
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("no Docker daemon, and none can be started (needs root and dockerd)")
    home = Path(tempfile.mkdtemp(prefix="agentrl-dockerd-"))
    with (home / "log").open("wb") as log:
        daemon = subprocess.Popen(
            ["dockerd", f"--data-root={home}/data", f"--exec-root={home}/exec",
             f"--pidfile={home}/pid", f"--host=unix://{home}/sock", "--iptables=false",
             "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"],
            stdout=subprocess.DEVNULL,
            stderr=log,
        )  # fmt: skip
    command = ["docker", f"--host=unix://{home}/sock"]
    try:
        for _ in range(120):
            if subprocess.run([*command, "info"], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.5)
        else:
            pytest.skip("dockerd does not come up: " + (home / "log").read_text()[-500:])
        yield command
    finally:
        daemon.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(30)
        daemon.kill()
        daemon.wait()
        shutil.rmtree(home, ignore_errors=True)


def _libraries(python_home: Path) -> set[str]:
    """Shared libraries of the machine that the interpreter and its extensions need."""
    found: set[str] = set()
    programs = [str(p) for p in python_home.rglob("*.so*") if p.is_file()]
    for program in [str(python_home / "bin" / "python3"), "/usr/bin/sleep", "/bin/sh", *programs]:
        listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
        found |= set(re.findall(r"(?:=> |^\s)(/(?:usr/)?lib\S+)", listing.stdout, re.MULTILINE))
    return {path for path in found if not path.startswith(str(python_home))}


@pytest.fixture(scope="module")
def image(docker: list[str], portable_python: Path, portable_tests: Path) -> Iterator[str]:
    """An image of this Python, the sandbox and the suite, nothing else."""
    home = portable_python.parent.parent
    with subprocess.Popen([*docker, "import", "-", IMAGE], stdin=subprocess.PIPE,
                          stdout=subprocess.DEVNULL) as importer:  # fmt: skip
        with tarfile.open(fileobj=importer.stdin, mode="w|", dereference=True) as tar:
            libraries = _libraries(home)
            folders = {f for path in libraries for f in map(str, Path(path).parents)} - {"/"}
            for folder in sorted({*folders, "/opt", "/usr", "/usr/bin", "/bin", "/etc", "/home"}):
                _add_folder(tar, folder, 0o755)
            _add_folder(tar, "/tmp", 0o1777)
            _add_folder(tar, "/root", 0o700)
            tar.add(home, "opt/python")
            tar.add(portable_tests, "opt/tests")
            for path in (*libraries, "/usr/bin/sleep", "/bin/sh", "/etc/passwd"):
                tar.add(path, path.lstrip("/"))
        assert importer.stdin is not None
        importer.stdin.close()
    assert importer.returncode == 0
    yield IMAGE
    subprocess.run([*docker, "rmi", "-f", IMAGE], capture_output=True, check=False)


def _add_folder(tar: tarfile.TarFile, name: str, mode: int) -> None:
    entry = tarfile.TarInfo(name.lstrip("/"))
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    tar.addfile(entry)


def test_hostile_suite_in_containers(docker: list[str], image: str) -> None:
    """As root and as a user, in a default container and with namespaces allowed."""
    version = subprocess.run(
        [*docker, "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True,
        check=True,
    ).stdout.strip()  # fmt: skip
    report = [f"Docker {version}, Linux {platform.release()}, {platform.machine()}"]
    failed: list[str] = []
    for name, options in RUNS.items():
        done = _run_in_container(docker, image, options)
        shown = "docker run --rm --network none " + " ".join([*options, image])
        report += ["", f"=== {name}: {shown}", done.stdout.strip()]
        if done.returncode != 0:
            failed.append(f"{name}:\n{done.stdout[-5000:]}{done.stderr[-2000:]}")
    RESULTS.write_text("\n".join(report) + "\n")
    assert not failed, "\n".join(failed)


PROBE = "from agentrl_sandbox.probe import probe; print(*probe().lines(), sep='\\n', flush=True)"
SUITE = (
    "import pytest, sys; sys.exit(pytest.main(['-v', '--tb=short', "
    "'tests/sandbox/test_hostile.py']))"
)


def _run_in_container(
    docker: list[str], image: str, options: list[str]
) -> subprocess.CompletedProcess[str]:
    environment = {
        "PYTHONPATH": "/opt/tests:/opt/tests/sandbox",
        "LD_LIBRARY_PATH": "/opt/python/lib",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/home",
        "PATH": "/usr/bin:/bin",
    }
    settings = [part for name, text in environment.items() for part in ("-e", f"{name}={text}")]
    return subprocess.run(
        [*docker, "run", "--rm", "--network", "none", "-w", "/opt/tests", *settings, *options,
         image, "/opt/python/bin/python3", "-c", f"{PROBE}\n{SUITE}"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
