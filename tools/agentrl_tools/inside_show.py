"""Inside a sandbox session: figures in words, tables and arrays kept short.

Sent as source (`inside.py`); the standard library alone. Imports nothing that the model's code has not
imported: numpy, pandas and matplotlib are looked up among the loaded modules.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

MAX_AXES, MAX_ITEMS, MAX_LABEL, MAX_TEXT = 6, 8, 40, 1500

_told: dict[int, str] = {}


def prepare() -> None:
    """Shorten how arrays and data frames are written, now or as soon as pandas is imported."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.set_printoptions(threshold=200, edgeitems=3, linewidth=100)
    pandas = sys.modules.get("pandas")
    if pandas is not None:
        _shorten_pandas(pandas)
    else:
        sys.meta_path.insert(0, _AfterPandas())


def _shorten_pandas(pandas: Any) -> None:
    options = {"max_rows": 12, "min_rows": 6, "max_columns": 8, "max_colwidth": 30, "width": 100}
    for name, value in options.items():
        pandas.set_option(f"display.{name}", value)


class _AfterPandas:
    """Waits on the import path until pandas is imported, and lets the import go its way."""

    def find_spec(self, name: str, path: object, target: object = None) -> Any:
        if name != "pandas":
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec: Any = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def executed(module: Any) -> None:
                execute(module)
                _shorten_pandas(module)

            spec.loader.exec_module = executed
        return spec


def figures() -> str:
    """What is new among pyplot's figures since the last call; empty when nothing is."""
    helpers = sys.modules.get("matplotlib._pylab_helpers")
    if helpers is None:
        return ""
    told: list[str] = []
    for number, manager in list(helpers.Gcf.figs.items()):
        try:
            text = _figure(number, manager.canvas.figure)
        except Exception as error:  # noqa: BLE001 - artists are model code's objects
            text = f"[Figure {number} cannot be described: {type(error).__name__}]"
        if _told.get(number) != text:
            _told[number] = text
            told.append(text)
    return "\n".join(told)[:MAX_TEXT]


def _figure(number: int, figure: Any) -> str:
    width, height = (int(x) for x in figure.get_size_inches() * figure.dpi)
    parts = [f"Figure {number}, {width}x{height} px{_titled(figure._suptitle)}"]
    axes = list(figure.axes)
    parts += [_axes(one) for one in axes[:MAX_AXES]]
    if len(axes) > MAX_AXES:
        parts.append(f"and {len(axes) - MAX_AXES} more axes")
    if not axes:
        parts.append("empty")
    return f"[{' | '.join(parts)}]"


def _titled(text: Any) -> str:
    return f" {_quoted(text.get_text())}" if text is not None and text.get_text() else ""


def _quoted(text: Any) -> str:
    text = str(text)
    return repr(text if len(text) <= MAX_LABEL else text[:MAX_LABEL] + "...")


def _axes(axes: Any) -> str:
    title = axes.get_title()
    what = f"axes {_quoted(title)}" if title else "axes"
    items = _items(axes)
    shown = items[:MAX_ITEMS] + (
        [f"and {len(items) - MAX_ITEMS} more"] if len(items) > MAX_ITEMS else []
    )
    sides = [_side("x", axes.get_xlabel(), axes.get_xlim(), axes.get_xscale())]
    sides.append(_side("y", axes.get_ylabel(), axes.get_ylim(), axes.get_yscale()))
    return f"{what}: {', '.join(sides)}; {', '.join(shown) or 'nothing drawn'}"


def _side(name: str, label: str, limits: Any, scale: str) -> str:
    low, high = (f"{float(x):.4g}" for x in limits)
    told = f" {_quoted(label)}" if label else ""
    return f"{name}{told} {low} to {high}" + ("" if scale == "linear" else f" ({scale})")


def _items(axes: Any) -> list[str]:
    """What is drawn: lines, bars, scattered points, images, texts."""
    found = [f"line{_label(line)} {len(line.get_xdata())} points" for line in axes.lines]
    barred: set[int] = set()
    for group in axes.containers:
        bars = [patch for patch in group if patch in axes.patches]
        if bars:
            barred |= {id(patch) for patch in bars}
            found.append(f"bars{_label(group)} {len(bars)}")
    loose = [patch for patch in axes.patches if id(patch) not in barred]
    if loose:
        found.append(f"{len(loose)} patches")
    for drawn in axes.collections:
        offsets = drawn.get_offsets()
        kind = "scatter" if type(drawn).__name__ == "PathCollection" else type(drawn).__name__
        found.append(f"{kind}{_label(drawn)} {len(offsets)} points")
    for image in axes.images:
        found.append("image " + "x".join(str(n) for n in image.get_array().shape))
    found += [f"text {_quoted(text.get_text())}" for text in axes.texts]
    return found


def _label(artist: Any) -> str:
    label = artist.get_label()
    return f" {_quoted(label)}" if label and not str(label).startswith("_") else ""
