"""The shipped model under both engines: what vLLM serves is what the in-process engine computes."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from agentrl.chat.nano import NanoRenderer
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.engine.base import Sampling
from agentrl.engine.transformers import TransformersEngine
from agentrl.engine.vllm.engine import VllmEngine
from agentrl.model_path import model_path
from agentrl.types import Message

QUESTIONS = ["37*84=?", "max(657,851)?", "reverse urrlf?", "k=245*373;k%409?"]

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.filterwarnings("ignore"),
]


async def test_nano_is_served_as_it_is_computed() -> None:
    """Greedy tokens are equal, and logprobs within 1e-4, for tasks answered and tasks coded."""
    path = model_path("nano")
    tokenizer = load_tokenizer(path)
    renderer = NanoRenderer(tokenizer)
    greedy = Sampling(max_tokens=24, temperature=0.0, stop=("</code>",), stop_ids=renderer.stop_ids)
    ours = TransformersEngine(path, tokenizer=tokenizer, max_context=128, device="cpu")
    theirs = VllmEngine(path, tokenizer=tokenizer, max_context=128, kv_cache_mb=32)
    await ours.open()
    await theirs.open()
    try:
        for question in QUESTIONS:
            messages = [Message("system", "Tools: python"), Message("user", question)]
            prompt = renderer.prompt_ids(messages)
            mine, served = (
                await ours.generate(prompt, greedy),
                await theirs.generate(prompt, greedy),
            )
            assert served.token_ids.tolist() == mine.token_ids.tolist()
            assert (served.stop, served.stop_text) == (mine.stop, mine.stop_text)
            np.testing.assert_allclose(served.logprobs, mine.logprobs, atol=1e-4)
    finally:
        await ours.close()
        await theirs.close()
