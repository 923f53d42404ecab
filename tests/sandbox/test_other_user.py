"""The suites that attack the fence again as an ordinary user, when the tests run as root."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentrl_sandbox import cgroups

USER = "4242"
needs_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="needs root and setpriv to become an ordinary user; as one, the suite itself is the test",
)


def _passed_as_user(python: Path, tests: Path, arguments: str, groups: list[Path]) -> int:
    """How many tests passed that an ordinary user ran from within these cgroups."""
    home = tests / "home"
    home.mkdir(exist_ok=True)
    os.chown(home, int(USER), int(USER))
    command = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", str(python),
               "-m", "pytest", "-q", "-rs", "--durations=6", *shlex.split(arguments)]  # fmt: skip
    join = "".join(f"echo $$ > {shlex.quote(str(group))}/cgroup.procs; " for group in groups)
    done = subprocess.run(
        ["sh", "-ec", f"{join} exec {shlex.join(command)}"],
        cwd=tests,
        env={"PATH": "/usr/bin:/bin", "HOME": str(home), "TMPDIR": str(home),
             "PYTHONPATH": f"{tests}:{tests}/sandbox", "OMP_NUM_THREADS": "1",
             "PYTHONDONTWRITEBYTECODE": "1", "LD_LIBRARY_PATH": str(python.parent.parent / "lib")},
        capture_output=True,
        text=True,
        timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Permission denied" not in done.stderr
    print(done.stdout)
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    return int(passed[1])


@needs_root
def test_hostile_suite_as_an_ordinary_user(portable_python: Path, portable_tests: Path) -> None:
    chosen = "tests/sandbox/test_hostile.py -k local"
    assert _passed_as_user(portable_python, portable_tests, chosen, []) >= 46


@pytest.fixture
def delegated() -> Iterator[list[Path]]:
    """A cgroup for each controller that belongs to the ordinary user."""
    try:
        parents = dict.fromkeys(cgroups.find().of[name] for name in ("memory", "pids"))
    except OSError as error:
        pytest.skip(f"no cgroups to delegate: {error}")
    folders = [parent / f"agentrl-test-{os.getpid()}" for parent in parents]
    for folder in folders:
        folder.mkdir()
        for path in (folder, *folder.iterdir()):
            os.chown(path, int(USER), int(USER))
    yield folders
    for folder in folders:
        folder.rmdir()


@needs_root
def test_copies_as_an_ordinary_user(
    portable_python: Path, portable_tests: Path, delegated: list[Path]
) -> None:
    """With a delegated group he has every level; afterwards the group can be removed."""
    chosen = "tests/sandbox/test_copies.py -k 'facts or folder or forks or ways or capabilities'"
    assert _passed_as_user(portable_python, portable_tests, chosen, delegated) >= 9
