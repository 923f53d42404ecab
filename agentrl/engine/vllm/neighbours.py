"""Libraries that vLLM trips over when they were imported before it."""

from __future__ import annotations

import sys
from typing import Any


def make_llvmlite_plain() -> None:
    """Let llvmlite's library answer `hasattr(lib, "__dict__")` truly.

    vLLM reads `vars()` of everything in every module when it starts. llvmlite (numba's, which bm25s
    imports) looks any name up in its shared library, `__dict__` included, and hands out a function.
    """
    module: Any = sys.modules.get("llvmlite.binding.ffi")
    if module is None:
        return
    proxy = module.lib.__class__
    found = proxy.__getattr__
    if getattr(found, "plain", False):
        return

    def look_up(self: object, name: str) -> object:
        if name == "__dict__":
            raise AttributeError(name)
        return found(self, name)

    look_up.plain = True  # pyright: ignore[reportFunctionMemberAccess]
    proxy.__getattr__ = look_up


__all__ = ["make_llvmlite_plain"]
