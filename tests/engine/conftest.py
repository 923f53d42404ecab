"""Tiny random models saved by transformers, and tokenizers with awkward pieces."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

logging.getLogger("transformers").setLevel(logging.ERROR)

COMMON = {
    "vocab_size": 99,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "bos_token_id": None,
    "eos_token_id": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}


def qwen2(**changes):
    config = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    config |= {"hidden_size": 128}  # head_dim 32, the least vLLM takes on a CPU
    return Qwen2ForCausalLM(Qwen2Config(**{**COMMON, **config, **changes}))


def qwen3():
    config = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16}
    return Qwen3ForCausalLM(Qwen3Config(**COMMON, **config, tie_word_embeddings=False))


def llama(rope, **changes):
    config = {"num_attention_heads": 3, "num_key_value_heads": 3, "tie_word_embeddings": False}
    return LlamaForCausalLM(LlamaConfig(**{**COMMON, **config, **changes}, rope_parameters=rope))


MODELS = {
    "qwen2": qwen2,
    "qwen3": qwen3,
    "llama": lambda: llama(LLAMA3_ROPE),
    "llama_yarn_biased": lambda: llama(YARN_ROPE, attention_bias=True, mlp_bias=True),
}


def randomise(model, seed: int):
    """Every parameter random, biases and norms included, so that none of them can be forgotten."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator) * 0.08
            p.copy_(noise + 1 if "norm" in name else noise)
    return model.eval()


def save(model, folder: Path) -> Path:
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: save(randomise(make(), 7), root / name) for name, make in MODELS.items()}


@pytest.fixture(scope="session")
def models(folders):
    """The same models in transformers, float32."""
    return {
        name: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for name, folder in folders.items()
    }


class Pieces:
    """99 ids; the last stand for pieces of several characters or parts of one."""

    special: ClassVar = {
        90: b"</co",
        91: b"de>",
        92: b"x</code>y",
        93: "é".encode()[:1],
        94: "é".encode()[1:],
    }

    def piece(self, token_id: int) -> bytes:
        return self.special.get(token_id, bytes([33 + token_id % 90]))

    def encode(self, text: str) -> list[int]:
        return [ord(c) - 33 for c in text]

    def decode(self, token_ids) -> str:
        return b"".join(self.piece(int(i)) for i in token_ids).decode("utf-8", "replace")


@pytest.fixture(scope="session")
def pieces() -> Pieces:
    return Pieces()


class Helpers:
    """What test modules share; conftest functions cannot be imported."""

    @staticmethod
    def prompt(length: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 90, length).astype(np.int32)

    @staticmethod
    def logits(model, ids) -> torch.Tensor:
        with torch.no_grad():
            return model(torch.as_tensor(np.asarray(ids, np.int64))[None]).logits[0].float()

    @classmethod
    def logprobs(cls, model, row, generated, temperature: float = 1.0) -> torch.Tensor:
        """Logprobs [t, vocab] of the distributions the generated ids were drawn from."""
        logits = cls.logits(model, np.concatenate([row, generated]))[len(row) - 1 : -1]
        return torch.log_softmax(logits / temperature, -1)

    @staticmethod
    def picked(logprobs: torch.Tensor, generated) -> np.ndarray:
        index = torch.as_tensor(np.asarray(generated, np.int64))[:, None]
        return logprobs.gather(1, index)[:, 0].numpy()

    @staticmethod
    async def gather(*coroutines):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(c) for c in coroutines]
        return [t.result() for t in tasks]

    @staticmethod
    def fresh(folder: Path, seed: int):
        """A model of the same shape with other parameters."""
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return randomise(model, seed)


@pytest.fixture(scope="session")
def helpers() -> type[Helpers]:
    return Helpers


@pytest.fixture(scope="session")
def servers(folders, pieces):
    """Gives a vLLM server of the qwen2 model that lives: the session's, or a new one after a test has
    killed it."""
    from agentrl.engine.vllm.server import VllmServerEngine

    os.environ["OMP_NUM_THREADS"] = "1"
    started: list[VllmServerEngine] = []

    def living() -> VllmServerEngine:
        if not started or started[-1].dead is not None:
            started.append(
                VllmServerEngine(folders["qwen2"], tokenizer=pieces, max_batch=16, kv_cache_mb=32)
            )
            asyncio.run(started[-1].open())
        return started[-1]

    yield living
    for engine in started:
        asyncio.run(engine.close())


@pytest.fixture(scope="module")
def served(servers):
    return servers()


@pytest.fixture(scope="module")
def connected(served, folders, pieces, tmp_path_factory):
    """An engine of its own on the session's server."""
    from agentrl.engine.vllm.server import VllmServerEngine

    engine = VllmServerEngine(
        folders["qwen2"],
        tokenizer=pieces,
        url=f"unix:{served._link.process.socket}",
        weights_dir=str(tmp_path_factory.mktemp("weights")),
    )
    asyncio.run(engine.open())
    yield engine
    asyncio.run(engine.close())
