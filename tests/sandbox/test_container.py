"""The hostile suite inside real containers: `pytest -m slow tests/sandbox/test_container.py`.

As root and as a user, in a default container and with namespaces allowed. Starts a Docker daemon of
its own (as root); the image is made from this machine's Python, so nothing is downloaded. What a
whole run prints is kept in `benchmarks/results/sandbox_container.txt`.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

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


class Daemon(Protocol):
    """A Docker daemon that answers."""

    host: str


@pytest.fixture(scope="module")
def docker(docker_daemon: Daemon) -> list[str]:
    """The docker command, with a daemon behind it."""
    return ["docker", f"--host={docker_daemon.host}"]


@pytest.fixture(scope="module")
def image(docker: list[str], docker_image: str, portable_tests: Path) -> str:
    """The image of this Python, and in it the sandbox, the suite, and what the suite looks at."""
    made = subprocess.run(
        [*docker, "create", docker_image, "none"], capture_output=True, text=True, check=True
    ).stdout.strip()
    with subprocess.Popen([*docker, "cp", "-", f"{made}:/"], stdin=subprocess.PIPE) as copier:
        assert copier.stdin is not None
        with tarfile.open(fileobj=copier.stdin, mode="w|", dereference=True) as tar:
            for folder in ("/usr", "/usr/bin", "/bin", "/etc", "/home"):
                _add_folder(tar, folder, 0o755)
            _add_folder(tar, "/root", 0o700)
            tar.add(portable_tests, "opt/tests")
            for path in ("/usr/bin/sleep", "/bin/sh", "/etc/passwd"):
                tar.add(path, path.lstrip("/"))
        copier.stdin.close()
    assert copier.returncode == 0
    for words in (["commit", made, IMAGE], ["rm", made]):
        subprocess.run([*docker, *words], capture_output=True, check=True)
    return IMAGE


def _add_folder(tar: tarfile.TarFile, name: str, mode: int) -> None:
    entry = tarfile.TarInfo(name.lstrip("/"))
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    tar.addfile(entry)


@pytest.fixture(scope="module")
def report(docker: list[str]) -> Iterator[dict[str, str]]:
    """What each container printed, by the name of its run; written down when all have run."""
    told: dict[str, str] = {}
    yield told
    if set(told) == set(RUNS):
        version = subprocess.run(
            [*docker, "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True,
            check=True,
        ).stdout.strip()  # fmt: skip
        head = f"Docker {version}, Linux {platform.release()}, {platform.machine()}"
        RESULTS.write_text("\n\n".join([head, *(told[name] for name in RUNS)]) + "\n")


@pytest.mark.parametrize("name", RUNS)
def test_hostile_suite_in_a_container(
    docker: list[str], image: str, report: dict[str, str], name: str
) -> None:
    options = RUNS[name]
    done = _run_in_container(docker, image, options)
    shown = "docker run --rm --network none " + " ".join([*options, image])
    report[name] = f"=== {name}: {shown}\n{done.stdout.strip()}"
    assert done.returncode == 0, f"{done.stdout[-5000:]}{done.stderr[-2000:]}"


# What the filter alone leaks depends on who owns process 1 and on root's capabilities; it is judged
# outside. A container gives `lite` or more.
PROBE = "from agentrl_sandbox.probe import probe; print(*probe().lines(), sep='\\n', flush=True)"
SUITE = (
    "import pytest, sys; sys.exit(pytest.main(['-v', '--tb=short', '-k', 'not minimal', "
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
