"""Settings of every test."""

from __future__ import annotations

import os

from hypothesis import settings

# A busy machine is slow, not wrong: tests are bounded by pytest's own timeout. In CI the examples
# are the same every time, so that a failure there can be repeated.
settings.register_profile("agentrl", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("agentrl")
