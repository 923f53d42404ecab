"""Asking an interpreter what a kernel of it needs to see. Printed as JSON by that interpreter."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from typing import TypedDict

from agentrl_sandbox.inside import visible


class Survey(TypedDict):
    """An interpreter, as it knows itself."""

    python: str
    """The path it was started by; a virtual environment is found next to it."""
    readable: list[str]
    """File trees that it reads."""
    ipykernel: bool


def main() -> None:
    """Print the survey."""
    extras = [
        os.path.join(sys.prefix, "pyvenv.cfg"),
        os.path.dirname(os.path.realpath(sys.executable)),
    ]
    readable = visible.outermost([*visible.readable(), *extras])
    survey: Survey = {
        "python": sys.executable,
        "readable": list(readable),
        "ipykernel": importlib.util.find_spec("ipykernel") is not None,
    }
    json.dump(survey, sys.stdout)
