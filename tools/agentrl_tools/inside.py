"""Modules of this package that live inside a sandbox session, called one function at a time.

`inside_<name>.py` imports the standard library alone and is sent as source. A session that lost its
interpreter, was reset, or whose code threw the module away gets it again at the next call, so nobody
keeps book of what is loaded. What comes back is text by a process that may have run model code: a
claim like any other output, checked for its form and nothing else.
"""

from __future__ import annotations

import ast
from functools import cache
from importlib.resources import files

from agentrl.sandbox import ExecResult, Sandbox

_PACKAGE = "agentrl_tools"
LOAD_S = 30.0
"""Seconds that loading a module may take."""
_LOAD = """
import sys, types
for name, source in {modules!r}:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
"""


class Inside:
    """One such module, and those it imports."""

    def __init__(self, name: str, *imported: str) -> None:
        """`imported`: names of other such modules, each after those that it imports itself."""
        self._modules = [f"inside_{one}" for one in (*imported, name)]
        self._module = f"{_PACKAGE}.inside_{name}"

    async def call(
        self, sandbox: Sandbox, function: str, *arguments: object, timeout_s: float
    ) -> ExecResult:
        """The run of one call; its text is read with `told`. Raises SandboxError.

        Arguments are plain literals.
        """
        listed = ", ".join(repr(argument) for argument in arguments)
        cell = f"__import__('sys').modules[{self._module!r}].{function}({listed})"
        result = await sandbox.run(cell, timeout_s=timeout_s)
        if result.status == "error" and result.error == f"KeyError: {self._module!r}":
            await sandbox.run(self._loading(), timeout_s=LOAD_S)
            result = await sandbox.run(cell, timeout_s=timeout_s)
        return result

    def _loading(self) -> str:
        # One expression statement, so that no name is left behind in the model's namespace.
        modules = [(f"{_PACKAGE}.{module}", _source(module)) for module in self._modules]
        return f"exec({_LOAD.format(modules=modules)!r}, {{}})"


@cache
def _source(module: str) -> str:
    return files(_PACKAGE).joinpath(f"{module}.py").read_text(encoding="utf-8")


def told(result: ExecResult) -> str | None:
    """The text that a call returned; None when it returned none."""
    if result.status != "ok" or result.value is None:
        return None
    try:
        value: object = ast.literal_eval(result.value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, str) else None
