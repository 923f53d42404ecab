"""What is sent into a container: a small program, and the sources that it loads.

Nothing of ours has to be in the image, and nothing is mounted, so the daemon may be on another
machine. The sources go into a small tmpfs that sessions cannot read.
"""

from __future__ import annotations

import functools
import io
import struct
import zipfile
from pathlib import Path

import agentrl.errors
import agentrl.sandbox
import agentrl_sandbox

HOME = "/agentrl"
"""Where the sources lie inside."""
WORK = "/work"
"""Under which the work folders lie inside."""

PROGRAM = f"""
import sys
if sys.version_info < (3, 11):
    sys.exit("its python3 is %d.%d, and 3.11 or later is needed" % sys.version_info[:2])
import importlib.util, io, os, struct, zipfile
missing = [name for name in ("numpy", "sympy") if importlib.util.find_spec(name) is None]
if missing:
    sys.exit("its python3 has no " + " and no ".join(missing))
relay = os.fork()
if relay:
    # The first process only buries the dead: orphans come to it, and nobody else would.
    while True:
        pid, status = os.wait()
        if pid == relay:
            os._exit(os.waitstatus_to_exitcode(status) & 0x7F)
def take(size):
    data = b""
    while len(data) < size:
        piece = os.read(0, size - len(data))
        if not piece:
            sys.exit(0)
        data += piece
    return data
zipfile.ZipFile(io.BytesIO(take(*struct.unpack("!I", take(4))))).extractall({HOME!r})
sys.path.insert(0, {HOME!r})
from agentrl_sandbox.docker.relay import main
main()
"""
"""Written so that an old Python reaches the line that refuses it."""


@functools.cache
def sources() -> bytes:
    """Length and zip archive of `agentrl_sandbox` and the contract it stands on."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("agentrl/__init__.py", "")
        for module in (agentrl.errors, agentrl.sandbox):
            path = Path(module.__file__ or "")
            archive.write(path, f"agentrl/{path.name}")
        home = Path(agentrl_sandbox.__file__).parent
        for path in sorted(home.rglob("*.py")):
            archive.write(path, str(Path("agentrl_sandbox") / path.relative_to(home)))
    data = buffer.getvalue()
    return struct.pack("!I", len(data)) + data
