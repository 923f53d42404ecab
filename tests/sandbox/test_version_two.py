"""Level `strong` on a real version 2 hierarchy: a second kernel is started for it, in a process.

    apt-get install user-mode-linux
    pytest -m slow tests/sandbox/test_version_two.py -s | tee benchmarks/results/sandbox_version_two.txt

A machine whose memory controller belongs to version 1 cannot mount it as version 2 too. A user-mode
kernel sees this machine's files, has controllers of its own, and ends with the test.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

KERNEL = shutil.which("linux.uml")
ROOT = Path(__file__).parents[2]
# The kernel of Debian's package lacks CHECKPOINT_RESTORE, without which no session can be copied.
TESTS = "tests/sandbox/test_cgroups.py -k 'not family'"
INIT = """#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 groups /sys/fs/cgroup
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t devtmpfs dev /dev
echo "+memory +pids +cpu" > /sys/fs/cgroup/cgroup.subtree_control
mkdir /sys/fs/cgroup/tests
echo $$ > /sys/fs/cgroup/tests/cgroup.procs
cd {root}
uname -sr
{python} -c "from agentrl_sandbox.probe import probe; print(*probe().lines(), sep='\\n')"
{python} -m pytest -q --tb=short --color=no -p no:cacheprovider {tests}
halt -f
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(KERNEL is None, reason="no linux.uml: apt-get install user-mode-linux")
def test_limits_bite_on_version_two() -> None:
    folder = ROOT / ".uml"
    folder.mkdir(exist_ok=True)
    init = folder / "init.sh"
    try:
        init.write_text(INIT.format(root=ROOT, python=sys.executable, tests=TESTS))
        init.chmod(0o755)
        told = _boot(init)
    finally:
        shutil.rmtree(folder)
    print(told)
    assert "memory cgroup: yes, version 2" in told
    assert "isolation level: strong" in told
    passed = re.search(r"^(\d+) passed", told, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) >= 10


def _boot(init: Path) -> str:
    """What the second kernel's first process says. Its memory is a file that nobody else sees."""
    assert KERNEL is not None
    words = f"mem=3G rootfstype=hostfs root=/dev/root hostfs=/ rw loglevel=1 init={init} con=null"
    done = subprocess.run(
        [KERNEL, *words.split(), "con0=fd:0,fd:1", f"uml_dir={init.parent}/"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    return done.stdout[done.stdout.find("Linux 6") :]
