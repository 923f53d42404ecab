"""The hostile suite again as an ordinary user, when the tests run as root."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

USER = "4242"
needs_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="needs root and setpriv to become an ordinary user; as one, the suite itself is the test",
)


@needs_root
def test_hostile_suite_as_an_ordinary_user(portable_python: Path, portable_tests: Path) -> None:
    home = portable_tests / "home"
    home.mkdir()
    os.chown(home, int(USER), int(USER))
    done = subprocess.run(
        ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups",
         str(portable_python), "-m", "pytest", "-q", "-rs", "tests/sandbox/test_hostile.py"],
        cwd=portable_tests,
        env={"PATH": "/usr/bin:/bin", "HOME": str(home), "TMPDIR": str(home),
             "PYTHONPATH": f"{portable_tests}:{portable_tests}/sandbox", "OMP_NUM_THREADS": "1",
             "PYTHONDONTWRITEBYTECODE": "1",
             "LD_LIBRARY_PATH": str(portable_python.parent.parent / "lib")},
        capture_output=True,
        text=True,
        timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Permission denied" not in done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 46, done.stdout[-2000:]
