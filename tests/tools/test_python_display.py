"""Figures in words, short tables and arrays, and nothing of it where no library is mentioned."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec

import pytest

from agentrl.context import Context
from agentrl.env import Forkable
from agentrl.sandbox import Sandbox, SandboxPool
from agentrl.testing import FakeSandbox
from agentrl_tools import display
from agentrl_tools.python import PythonTool

pytestmark = pytest.mark.asyncio(loop_scope="module")

# A stand-in for matplotlib where it is not installed: the few attributes that are read.
FAKE = """
import sys, types
class Text:
    def __init__(self, text): self.text = text
    def get_text(self): return self.text
class Line:
    def __init__(self, n, label): self.n, self.label = n, label
    def get_xdata(self): return [0] * self.n
    def get_label(self): return self.label
class Size:
    def __mul__(self, dpi): return (640.0, 480.0)
class Axes:
    def __init__(self):
        self.lines, self.containers, self.patches = [Line(3, "a"), Line(5, "_child1")], [], [object()]
        self.collections, self.images, self.texts = [], [], [Text("note")]
    def get_title(self): return "Growth"
    def get_xlabel(self): return "year"
    def get_ylabel(self): return ""
    def get_xlim(self): return (0, 10)
    def get_ylim(self): return (-1.5, 2)
    def get_xscale(self): return "linear"
    def get_yscale(self): return "log"
class Figure:
    dpi, _suptitle = 100, Text("All")
    def __init__(self): self.axes = [Axes()]
    def get_size_inches(self): return Size()
class Broken:
    @property
    def axes(self): raise ValueError
manager = lambda figure: types.SimpleNamespace(canvas=types.SimpleNamespace(figure=figure))
helpers = types.ModuleType("matplotlib._pylab_helpers")
helpers.Gcf = types.SimpleNamespace(figs={1: manager(Figure())})
sys.modules["matplotlib._pylab_helpers"] = helpers  # what importing matplotlib.pyplot does
"""


@asynccontextmanager
async def opened(pool: SandboxPool, **options: float) -> AsyncIterator[tuple[PythonTool, Sandbox]]:
    box = await pool.acquire()

    async def lease() -> Sandbox:
        return box

    python = PythonTool(**{"max_chars": 4000, "timeout_s": 20, **options})  # type: ignore[arg-type]
    await python.open(Context(lease_sandbox=lease))
    try:
        yield python, box
    finally:
        await python.close()
        await box.close()


async def ran(python: PythonTool, code: str) -> str:
    return (await python(code=code)).content


async def test_the_plain_path_sends_the_code_alone() -> None:
    box = FakeSandbox(lambda _: "4\n")

    async def lease() -> Sandbox:
        return box

    python = PythonTool()
    await python.open(Context(lease_sandbox=lease))
    for code in ("print(2 + 2)", "import math, sympy", "plot = 3", "import pandas_like"):
        assert await ran(python, code) == "4"
    assert box.ran == ["print(2 + 2)", "import math, sympy", "plot = 3", "import pandas_like"]


async def test_a_figure_in_words_once_and_again_when_it_changed(local_pool: SandboxPool) -> None:
    figure = (
        "[Figure 1, 640x480 px 'All' | axes 'Growth': x 'year' 0 to 10, y -1.5 to 2 (log); "
        "line 'a' 3 points, line 5 points, 1 patches, text 'note']"
    )
    async with opened(local_pool) as (python, _):
        assert await ran(python, FAKE) == figure
        assert await ran(python, "x = 1") == "(no output)"
        assert await ran(python, "x") == "1"
        longer = figure.replace("line 'a' 3", "line 'a' 9")
        assert (
            await ran(python, "helpers.Gcf.figs[1].canvas.figure.axes[0].lines[0].n = 9") == longer
        )
        assert await ran(python, "print(7)\nhelpers.Gcf.figs[2] = manager(Broken())") == (
            "7\n[Figure 2 cannot be described: AttributeError]"
        )


async def test_copies_know_what_was_told(local_pool: SandboxPool) -> None:
    async with opened(local_pool) as (python, box):
        await ran(python, FAKE)
        assert isinstance(box, Forkable)
        (branch,) = await box.fork(1)

        async def lease() -> Sandbox:
            return branch

        (copy,) = await python.fork(1)
        await copy.open(Context(lease_sandbox=lease))
        assert await ran(copy, "pass") == "(no output)"
        assert "9 points" in await ran(
            copy, "helpers.Gcf.figs[1].canvas.figure.axes[0].lines[0].n = 9"
        )
        assert await ran(python, "pass") == "(no output)"
        await branch.close()


async def test_hostile_figures_cost_nothing(local_pool: SandboxPool) -> None:
    async with opened(local_pool) as (python, _):
        many = "helpers.Gcf.figs = {i: manager(Figure()) for i in range(500)}"
        assert len(await ran(python, f"{FAKE}\n{many}")) == 1500
        lying = "import sys; sys.modules['agentrl_tools.inside_show'].figures = lambda: 1 / 0"
        assert await ran(python, lying) == "(no output)"
        assert await ran(python, "1") == "1"


async def test_figures_that_never_end_are_tried_once(
    local_pool: SandboxPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "DESCRIBE_S", 0.5)
    endless = "class Endless:\n    @property\n    def axes(self):\n        while True: pass"
    endless += "\n    dpi, _suptitle = 100, None\n    get_size_inches = lambda self: Size()"
    async with opened(local_pool) as (python, box):
        await ran(python, FAKE)
        drawn = await ran(python, f"{endless}\nhelpers.Gcf.figs[7] = manager(Endless())\n5")
        assert drawn == "5"
        assert await ran(python, "6") == "6"
        await box.reset()
        lost = (
            "import os, sys; sys.modules['agentrl_tools.inside_show'].figures = lambda: os._exit(1)"
        )
        await ran(python, FAKE)
        assert await ran(python, lost) == display.LOST
        assert await ran(python, "1 + 1") == "2"


async def test_arrays_are_shortened(local_pool: SandboxPool) -> None:
    async with opened(local_pool) as (python, _):
        if (await ran(python, "import numpy as np")) != "(no output)":
            pytest.skip("no numpy in the sandbox")
        shown = await ran(python, "np.arange(500)")
        assert shown.startswith("array([  0,   1,   2, ..., 497, 498, 499]")


@pytest.mark.skipif(find_spec("pandas") is None, reason="needs pandas")
async def test_data_frames_are_shortened(local_pool: SandboxPool) -> None:
    async with opened(local_pool) as (python, _):
        table = await ran(python, "import pandas as pd\npd.DataFrame({'a': range(100), 'b': 'x'})")
        lines = table.splitlines()
        assert (lines[1].split(), lines[-3].split()) == (["0", "0", "x"], ["99", "99", "x"])
        assert lines[-1] == "[100 rows x 2 columns]"
        assert len(lines) == 10


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs matplotlib")
async def test_a_real_figure(local_pool: SandboxPool) -> None:
    code = (
        "import matplotlib.pyplot as plt\nfig, (a, b) = plt.subplots(1, 2, figsize=(6, 4))\n"
        "a.plot([0, 1, 2], [3, 5, 4], label='price')\na.set_xlabel('day')\na.set_xlim(0, 2)\n"
        "a.set_ylim(3, 5)\nb.bar(['x', 'y'], [1, 2])\nb.set_title('Sold')\nb.set_xlim(-1, 2)\n"
        "b.set_ylim(0, 4)\nb.scatter([0], [1])"
    )
    async with opened(local_pool) as (python, _):
        assert await ran(python, code) == (
            "[Figure 1, 600x400 px | axes: x 'day' 0 to 2, y 3 to 5; line 'price' 3 points | "
            "axes 'Sold': x -1 to 2, y 0 to 4; bars 2, scatter 1 points]"
        )
        assert "4 points" in await ran(python, "a.plot([1, 2, 3, 4])")
