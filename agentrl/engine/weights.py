"""The engine's own copy of a model's parameters, fused for speed, filled from the HF layout.

Queries, keys and values share one matrix, and so do the gate and up projections. Rows of the
query and key projections are reordered so that a rotary pair lies side by side and is one complex
number; dot products of queries with keys do not change. Nothing here aliases the learner's
tensors: `put` copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from agentrl.engine.architecture import Architecture
from agentrl.engine.base import Bucket
from agentrl.engine.linear import Linear
from agentrl.errors import EngineError, UserError

IGNORED_SUFFIXES = ("rotary_emb.inv_freq",)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer, fused."""

    input_norm: Tensor
    qkv: Linear
    """[hidden] -> [(n_heads + 2 n_kv_heads) head_dim]"""
    qk_norm: Tensor | None
    """Shape [n_heads + n_kv_heads, head_dim], rotary pairs side by side; Qwen3 only."""
    out: Linear
    post_norm: Tensor
    gate_up: Linear
    down: Linear

    def linears(self) -> tuple[Linear, ...]:
        """The layer's matrix products, in the order they are computed."""
        return self.qkv, self.out, self.gate_up, self.down


def pair_up(rows: Tensor, head_dim: int) -> Tensor:
    """Reorder each head's rows (0, 1, ..) to (0, d/2, 1, d/2 + 1, ..); shape kept."""
    heads = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return heads.transpose(1, 2).reshape(rows.shape)


class Weights:
    """All parameters; `put` some, `missing` tells which never came, `seal` makes them current."""

    def __init__(
        self, shape: Architecture, *, dtype: torch.dtype, device: torch.device, packed: bool
    ) -> None:
        self.shape = shape
        self.dtype, self.device, self.packed = dtype, device, packed
        self._targets: dict[str, Callable[[Tensor], None]] = {}
        self._sizes: dict[str, torch.Size] = {}
        self._received: set[str] = set()
        self.embedding = self._empty(shape.vocab, shape.hidden)
        self._expect("model.embed_tokens.weight", self.embedding)
        self.layers = [self._layer(i) for i in range(shape.n_layers)]
        self.norm = self._empty(shape.hidden)
        self._expect("model.norm.weight", self.norm)
        head = self.embedding if shape.tied else self._empty(shape.vocab, shape.hidden)
        if not shape.tied:
            self._expect("lm_head.weight", head)
        self.head = Linear(head, None, packed=packed)

    def begin(self) -> None:
        """Forget which parameters have come: a new set follows."""
        self._received.clear()

    def put(self, bucket: Bucket) -> None:
        """Copy parameters in.

        Raises EngineError for an unknown name or a wrong shape. A tied model's `lm_head.weight` is
        accepted and not used: the head is the embedding.
        """
        for name, tensor in bucket.items():
            if (name == "lm_head.weight" and self.shape.tied) or name.endswith(IGNORED_SUFFIXES):
                continue
            if name not in self._targets:
                raise EngineError(f"the model has no parameter {name!r}")
            if tensor.shape != self._sizes[name]:
                raise EngineError(
                    f"{name} came with shape {tuple(tensor.shape)}, not {tuple(self._sizes[name])}"
                )
            self._targets[name](tensor.detach())
            self._received.add(name)

    def missing(self) -> list[str]:
        """Names that have not come since `begin`."""
        return sorted(self._targets.keys() - self._received)

    def seal(self) -> None:
        """Make what was put current. Raises EngineError naming a parameter that never arrived."""
        missing = self.missing()
        if missing:
            raise EngineError(
                f"{len(missing)} parameters never arrived, first {missing[0]!r}: "
                "a sync must hand over the whole model"
            )
        for linear in self.linears():
            linear.pack()

    def linears(self) -> Iterator[Linear]:
        """Every matrix product, head last."""
        for layer in self.layers:
            yield from layer.linears()
        yield self.head

    def _layer(self, index: int) -> LayerWeights:
        s, prefix = self.shape, f"model.layers.{index}."
        q_rows, kv_rows = s.n_heads * s.head_dim, s.n_kv_heads * s.head_dim
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        norms = self._empty(s.hidden), self._empty(s.hidden)
        self._expect(prefix + "input_layernorm.weight", norms[0])
        self._expect(prefix + "post_attention_layernorm.weight", norms[1])
        qkv = self._fused(
            attention,
            (("q_proj", q_rows, True), ("k_proj", kv_rows, True), ("v_proj", kv_rows, False)),
            s.hidden,
            s.qkv_bias,
        )
        gates = (("gate_proj", s.intermediate, False), ("up_proj", s.intermediate, False))
        return LayerWeights(
            input_norm=norms[0],
            qkv=qkv,
            qk_norm=self._qk_norm(attention) if s.qk_norm else None,
            out=self._fused(attention, (("o_proj", s.hidden, False),), q_rows, s.o_bias),
            post_norm=norms[1],
            gate_up=self._fused(mlp, gates, s.hidden, s.mlp_bias),
            down=self._fused(mlp, (("down_proj", s.hidden, False),), s.intermediate, s.mlp_bias),
        )

    def _fused(
        self, prefix: str, parts: Iterable[tuple[str, int, bool]], n_in: int, with_bias: bool
    ) -> Linear:
        """One Linear of several projections `(name, rows, rotary)` stacked."""
        parts = tuple(parts)
        rows = sum(n for _, n, _ in parts)
        weight = self._empty(rows, n_in)
        bias = self._empty(rows) if with_bias else None
        start = 0
        for name, n, rotary in parts:
            stop = start + n
            self._expect(f"{prefix}{name}.weight", weight[start:stop], rotary=rotary)
            if bias is not None:
                self._expect(f"{prefix}{name}.bias", bias[start:stop], rotary=rotary)
            start = stop
        return Linear(weight, bias, packed=self.packed)

    def _qk_norm(self, prefix: str) -> Tensor:
        s = self.shape
        both = self._empty(s.n_heads + s.n_kv_heads, s.head_dim)
        for name, rows in (("q_norm", both[: s.n_heads]), ("k_norm", both[s.n_heads :])):
            self._expect(f"{prefix}{name}.weight", rows, rotary=True, size=rows.shape[1:])
        return both

    def _expect(
        self, name: str, target: Tensor, *, rotary: bool = False, size: torch.Size | None = None
    ) -> None:
        def copy(source: Tensor) -> None:
            """Write one parameter into its place, rotary rows reordered."""
            target.copy_(pair_up(source, self.shape.head_dim) if rotary else source)

        self._targets[name] = copy
        self._sizes[name] = target.shape if size is None else size

    def _empty(self, *size: int) -> Tensor:
        return torch.zeros(*size, dtype=self.dtype, device=self.device)


def safetensors_files(folder: Path) -> list[Path]:
    """The files a model's parameters are saved in.

    Raises UserError when there is none.
    """
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise UserError(
            f"{folder} holds no model*.safetensors: save the model with save_pretrained"
        )
    return files


def saved_names(files: Iterable[Path]) -> set[str]:
    """Names of the parameters saved in the files, read from their headers."""
    from safetensors import safe_open

    names: set[str] = set()
    for file in files:
        with cast(Any, safe_open(file, "pt")) as opened:  # safetensors leaves it untyped
            names.update(cast("list[str]", opened.keys()))
    return names


def read_safetensors(files: Iterable[Path]) -> Iterator[Bucket]:
    """The parameters saved in each file."""
    import safetensors.torch

    load = cast("Callable[[Path], dict[str, Tensor]]", safetensors.torch.load_file)
    for file in files:
        yield load(file)
