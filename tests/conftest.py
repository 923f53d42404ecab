"""Settings of every test."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# Before torch is imported: two of its threads fight over busy cores, and the determinism probes
# speak of one, as the engine's own thread has.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Started in the background, a shell has Ctrl-C ignored, and every child would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is slow, not wrong: tests are bounded by pytest's own timeout. In CI the examples
# are the same every time, so that a failure there can be repeated.
settings.register_profile("agentrl", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("agentrl")
