"""What importing costs, what `__all__` says, and who may import whom."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import pytest

import agentrl

HEAVY = ("torch", "numpy", "transformers", "vllm", "gymnasium", "pydantic", "sympy")
REPEATS = 3


def loaded(code: str) -> tuple[list[str], float]:
    """Heavy modules that a fresh interpreter loads for `code`, and its best time in seconds."""
    probe = (
        f"{code}\nimport json, sys\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    )
    best = float("inf")
    found = ""
    for _ in range(REPEATS):
        started = perf_counter()
        done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
        best = min(best, perf_counter() - started)
        assert done.returncode == 0, done.stderr
        found = done.stdout.strip().splitlines()[-1]
    return json.loads(found), best


def test_import_agentrl_is_light():
    heavy, seconds = loaded("import agentrl")
    print(f"import agentrl: {seconds:.2f} s")
    assert heavy == []


def test_help_is_light():
    code = "from agentrl.cli.main import run\nassert run(['--help']) == 0"
    heavy, seconds = loaded(code)
    print(f"agentrl --help: {seconds:.2f} s")
    assert heavy == []


def test_the_contracts_load_no_torch():
    heavy, _ = loaded(
        "import agentrl.points, agentrl.registry, agentrl.engine.base, agentrl.config"
    )
    assert {"torch", "transformers", "vllm"}.isdisjoint(heavy)


def modules() -> list[str]:
    walked = pkgutil.walk_packages(agentrl.__path__, "agentrl.")
    return [m.name for m in walked if not m.name.startswith("agentrl.engine.vllm")]


@pytest.mark.parametrize("name", modules())
def test_all_is_sorted_and_true(name: str):
    module = importlib.import_module(name)
    told = getattr(module, "__all__", None)
    if told is None:
        return
    assert len(set(told)) == len(told)
    assert sorted(told, key=_ruff_order) == list(told)
    missing = [one for one in told if not hasattr(module, one)]
    assert missing == []


def _ruff_order(name: str) -> tuple[int, list[tuple[int, int | str]]]:
    """Constants, then classes, then the rest, numbers by value: the order the linter keeps."""
    parts = [(0, int(p)) if p.isdigit() else (1, p) for p in re.split(r"(\d+)", name) if p]
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2, parts)


def test_every_module_says_what_it_is_for():
    root = Path(agentrl.__file__).parent
    silent = [
        str(path.relative_to(root))
        for path in sorted(root.rglob("*.py"))
        if path.read_text(encoding="utf-8").strip()
        and not path.read_text(encoding="utf-8").lstrip().startswith(('"""', 'r"""'))
    ]
    assert silent == []
